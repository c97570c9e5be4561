/* Load generator: acts as VMs and their ESXi hosts against a metadata server. One thread with epoll;
 * shares no code with the project. Checks each answer, and prints one line of JSON.
 *
 *     load [options] PORT MODE ARGUMENTS
 *
 *     storm N C            N boots, C at a time
 *     burst N              N boots that connect at the same instant
 *     herd N               N VMs connect; then all request METADATA at once
 *     steady N SECONDS     N VMs request METADATA repeatedly
 *     idle N SECONDS       N VMs connect and stay connected, after `ready`
 *     paced N C MS         like storm, but the guest's bytes are sent one at a time, MS apart
 *     moves N M B SECONDS  N VMs are connected; then M vMotions (each VM once) and B boots a second
 *
 *     --first N     number of the first VM: 0 is vm-00000
 *     --names N     number of VMs, before starting again with the first (100000)
 *     --stride N    from one VM to the next (1)
 *     --uri TEXT    the service URI (my-metadata)
 *     --tokens FILE identity tokens for the query of the service URI: a line for each VM, from
 *                   vm-00000 on
 *     --hosts N     number of ESXi hosts, from 127.0.1.1 on (32); a VM is always on the same host
 *     --timeout S   per boot (60)
 *
 * A boot is: connect, negotiate telnet and VMWARE-TELNET-EXT, send the identity, DO-PROXY, three
 * requests one after the other, close. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { SE = 240, SB = 250, WILL, WONT, DO, DONT, IAC };
enum { BINARY = 0, ECHO_ = 1, SGA = 3, AUTHENTICATION = 37, VMWARE = 232 };
enum { KNOWN_2 = 1, UNKNOWN_1 = 2, GOAHEAD = 41, NOTNOW = 43, PEER_OK = 45, WILL_PROXY = 71,
       WONT_PROXY = 73, GET_VC_UUID = 81, GET_NAME = 83, GET_BIOS_UUID = 85,
       GET_LOCATION_UUID = 87 };

#define S(text) (text), sizeof(text) - 1
#define KNOWN_SUBOPTIONS_1 \
    "\xff\xfa\xe8\x00\x00\x01\x02\x03\x28\x29\x2a\x2b\x2c\x2d\x2e\x30\x46\x47\x49PQTUVWRS\xff\xf0"

enum failure { CONNECT, REFUSED, CLOSED, WRONG_ANSWER, RESPONSE_ERROR, MOVE, TIMEOUT, FAILURES };
static const char *const failure_names[] = {"connect", "refused", "closed", "wrong answer",
                                            "RESPONSE_ERROR", "vMotion", "timeout"};

static const char *const documents[] = {"METADATA", "NETWORKDATA", "USERDATA"};

enum plan { BOOT, STAY, ASK_AGAIN, ARRIVE };
enum state { IN_DATA, AFTER_IAC, IN_OPTION, IN_SB, AFTER_IAC_IN_SB };
enum line { AT_CODE, IN_BODY, IN_PADDING, BROKEN };

struct vm {
    int descriptor, index;
    enum plan plan;
    struct vm *peer; /* the other end of its move */
    uint64_t began_ns, asked_ns;
    /* telnet */
    uint8_t has_heard, state, verb, wills_vmware, will_proxy, told;
    uint16_t payload_length;
    uint8_t payload[160]; /* option and content of the current subnegotiation */
    /* the serial line */
    uint8_t asked, answered, is_asking, is_ready, line_state, padding;
    uint8_t head_length;
    char head[32]; /* up to the # */
    uint32_t body_length;
    /* bytes of a paced guest */
    char request[32];
    uint8_t request_length, request_sent;
    uint64_t next_byte_ns;
    struct vm *previous, *next; /* list of open connections */
};

struct latencies {
    double *ms;
    size_t count, room;
};

static struct latencies boot_ms, answer_ms, move_ms;
static uint64_t failures[FAILURES];
static long boots, answers, moves, open_vms, unready_vms;
static struct vm *first_open, *first_ended;
static struct vm *mover; /* the next VM to move */
static int epoll, port, hosts = 32;
static long names = 100000, first_name, stride = 1;
static const char *uri = "my-metadata";
static char (*tokens)[64]; /* of the VMs, by index */
static long token_count;
static double timeout_s = 60, pace_ms;
static char out[1 << 16];
static size_t out_bytes;

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void note(struct latencies *latencies, uint64_t since_ns)
{
    if (latencies->count == latencies->room) {
        latencies->room = latencies->room ? 2 * latencies->room : 4096;
        latencies->ms = realloc(latencies->ms, latencies->room * sizeof *latencies->ms);
    }
    latencies->ms[latencies->count++] = (double)(now_ns() - since_ns) / 1e6;
}

static void say(const void *bytes, size_t length)
{
    if (out_bytes + length <= sizeof out) {
        memcpy(out + out_bytes, bytes, length);
        out_bytes += length;
    }
}

static void say_suboption(uint8_t code, const void *argument, size_t length)
{
    say(S("\xff\xfa\xe8"));
    say(&code, 1);
    for (const uint8_t *byte = argument; length--; byte++)
        say(*byte == IAC ? "\xff\xff" : (const char *)byte, *byte == IAC ? 2 : 1);
    say(S("\xff\xf0"));
}

/* The life of a VM */

static void end(struct vm *vm)
{
    close(vm->descriptor);
    if (vm->previous)
        vm->previous->next = vm->next;
    else
        first_open = vm->next;
    if (vm->next)
        vm->next->previous = vm->previous;
    if (vm->peer)
        vm->peer->peer = NULL;
    if (vm == mover)
        mover = vm->previous;
    vm->descriptor = -1;
    vm->next = first_ended; /* freed after the current events */
    first_ended = vm;
    open_vms--;
    unready_vms -= !vm->is_ready;
}

static void fail(struct vm *vm, enum failure kind)
{
    if (vm->descriptor < 0)
        return;
    failures[kind]++;
    end(vm);
}

static void send_all(struct vm *vm)
{
    size_t length = out_bytes;
    out_bytes = 0;
    if (length && vm->descriptor >= 0
        && send(vm->descriptor, out, length, MSG_NOSIGNAL) != (ssize_t)length)
        fail(vm, CLOSED);
}

static void watch(struct vm *vm, int how, uint32_t what)
{
    struct epoll_event event = {.events = what, .data.ptr = vm};
    epoll_ctl(epoll, how, vm->descriptor, &event);
}

/* Sends WILL AUTHENTICATION, as a hypervisor starts; waits for the connection first. */
static void begin(struct vm *vm, int how)
{
    if (send(vm->descriptor, S("\xff\xfb\x25"), MSG_NOSIGNAL) == 3)
        watch(vm, how, EPOLLIN);
    else if (errno == EAGAIN)
        watch(vm, how, EPOLLIN | EPOLLOUT);
    else
        fail(vm, CONNECT);
}

static struct vm *start(enum plan plan, long index, int host)
{
    static const int on = 1;
    struct sockaddr_in from = {.sin_family = AF_INET}, to = {.sin_family = AF_INET};
    struct vm *vm = calloc(1, sizeof *vm);
    vm->plan = plan;
    vm->index = (int)(first_name + index * stride % names);
    host = (host < 0 ? vm->index : host) % hosts;
    from.sin_addr.s_addr = htonl(0x7f000101u + (uint32_t)host);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    to.sin_port = htons((uint16_t)port);
    vm->descriptor = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    vm->next = first_open;
    if (first_open)
        first_open->previous = vm;
    first_open = vm;
    open_vms++;
    unready_vms++;
    vm->began_ns = now_ns();
    setsockopt(vm->descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(vm->descriptor, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    if (vm->descriptor < 0 || bind(vm->descriptor, (struct sockaddr *)&from, sizeof from)
        || (connect(vm->descriptor, (struct sockaddr *)&to, sizeof to) && errno != EINPROGRESS)) {
        fail(vm, CONNECT);
        return vm;
    }
    begin(vm, EPOLL_CTL_ADD);
    return vm;
}

/* The guest */

static void ask(struct vm *vm)
{
    const char *document = documents[vm->asked % 3];
    vm->request_length = (uint8_t)snprintf(vm->request, sizeof vm->request, "!!REQUEST_%s#\n",
                                           document);
    vm->asked_ns = now_ns();
    vm->is_asking = 1;
    if (pace_ms) {
        vm->request_sent = 0;
        vm->next_byte_ns = vm->asked_ns;
    } else {
        say(vm->request, vm->request_length);
        send_all(vm);
    }
}

static void pace(struct vm *vm, uint64_t now)
{
    while (vm->request_sent < vm->request_length && vm->next_byte_ns <= now
           && vm->descriptor >= 0) {
        vm->next_byte_ns += (uint64_t)(pace_ms * 1e6);
        say(vm->request + vm->request_sent++, 1);
        send_all(vm);
    }
}

static void complete(struct vm *target)
{
    struct vm *source = target->peer;
    say_suboption(46, target->request, 4);
    send_all(target);
    if (source)
        end(source);
    ask(target);
}

static void become_ready(struct vm *vm)
{
    vm->is_ready = 1;
    unready_vms--;
    if (vm->plan == BOOT)
        ask(vm);
    else if (vm->plan == ARRIVE)
        complete(vm);
}

static void answered(struct vm *vm)
{
    note(&answer_ms, vm->asked_ns);
    answers++;
    vm->answered++;
    vm->is_asking = 0;
    if (vm->plan == ASK_AGAIN) {
        ask(vm);
    } else if (vm->plan == BOOT && ++vm->asked < 3) {
        ask(vm);
    } else if (vm->plan == BOOT) {
        note(&boot_ms, vm->began_ns);
        boots++;
        end(vm);
    } else if (vm->plan == ARRIVE) {
        note(&move_ms, vm->began_ns);
        moves++;
        vm->plan = STAY;
    }
}

static void line_ended(struct vm *vm)
{
    char expected[32];
    int length = snprintf(expected, sizeof expected, "!!RESPONSE_%s#", documents[vm->asked % 3]);
    int is_right = vm->is_asking && vm->head_length == length && vm->body_length > 0
                   && !memcmp(vm->head, expected, (size_t)length)
                   && (vm->line_state == IN_BODY || vm->line_state == IN_PADDING)
                   && (vm->body_length + vm->padding) % 4 == 0 && vm->padding <= 2;
    int is_error = vm->head_length > 17 && !memcmp(vm->head, S("!!RESPONSE_ERROR#"));
    int is_blank = vm->line_state == AT_CODE && !vm->head_length;
    vm->line_state = AT_CODE;
    vm->head_length = vm->padding = 0;
    vm->body_length = 0;
    if (is_right)
        answered(vm);
    else if (is_error)
        fail(vm, RESPONSE_ERROR);
    else if (!is_blank)
        fail(vm, WRONG_ANSWER);
}

static int is_base64(uint8_t byte)
{
    return (byte >= 'A' && byte <= 'Z') || (byte >= 'a' && byte <= 'z')
           || (byte >= '0' && byte <= '9') || byte == '+' || byte == '/';
}

static void hear_data(struct vm *vm, uint8_t byte)
{
    if (byte == '\n') {
        line_ended(vm);
    } else if (vm->line_state == AT_CODE) {
        if (vm->head_length == sizeof vm->head)
            vm->line_state = BROKEN;
        else
            vm->head[vm->head_length++] = (char)byte;
        if (byte == '#')
            vm->line_state = IN_BODY;
    } else if (vm->line_state == IN_BODY && is_base64(byte)) {
        vm->body_length++;
    } else if ((vm->line_state == IN_BODY || vm->line_state == IN_PADDING) && byte == '=') {
        vm->line_state = IN_PADDING;
        vm->padding++;
    } else {
        vm->line_state = BROKEN;
    }
}

/* The hypervisor */

static void negotiate(struct vm *vm, uint8_t verb, uint8_t option)
{
    if (verb == DO && (option == BINARY || option == SGA)) {
        say((uint8_t[]){IAC, WILL, option}, 3);
    } else if (verb == DO && option == VMWARE) {
        if (!vm->wills_vmware++)
            say((uint8_t[]){IAC, WILL, option}, 3);
    } else if (verb == DO) {
        say((uint8_t[]){IAC, WONT, option}, 3);
    } else if (verb == WILL && (option == BINARY || option == SGA || option == ECHO_)) {
        say((uint8_t[]){IAC, DO, option}, 3);
    } else if (verb == WILL) {
        say((uint8_t[]){IAC, DONT, option}, 3);
    }
}

static void say_uuid(uint8_t code, struct vm *vm, unsigned kind)
{
    char text[64];
    unsigned i = (unsigned)vm->index;
    int length = snprintf(text, sizeof text, "%02x 23 45 67 89 ab cd ef-fe dc ba 98 %02x %02x %02x %02x",
                          kind, i >> 24, i >> 16 & 255, i >> 8 & 255, i & 255);
    say_suboption(code, text, (size_t)length);
    vm->told++;
}

static void say_name(struct vm *vm)
{
    char text[32];
    say_suboption(GET_NAME - 1, text, (size_t)snprintf(text, sizeof text, "vm-%05d", vm->index));
    vm->told++;
}

static void say_who_we_are(struct vm *vm)
{
    char direction_and_uri[256];
    say(S(KNOWN_SUBOPTIONS_1));
    if (vm->plan == ARRIVE) {
        say_suboption(44, vm->request, vm->request_length); /* sequence and secret from its source */
        return;
    }
    int length = vm->index < token_count
        ? snprintf(direction_and_uri, sizeof direction_and_uri, "C%s?t=%s", uri, tokens[vm->index])
        : snprintf(direction_and_uri, sizeof direction_and_uri, "C%s", uri);
    say_suboption(70, direction_and_uri, (size_t)length);
}

static void go_ahead(struct vm *source, const uint8_t *argument, size_t length)
{
    if (source->peer || length > sizeof source->request) {
        fail(source, MOVE);
        return;
    }
    struct vm *target = start(ARRIVE, 0, source->index + 1);
    target->index = source->index;
    target->began_ns = source->asked_ns;
    target->request_length = (uint8_t)length;
    memcpy(target->request, argument, length);
    target->peer = source;
    source->peer = target;
}

static void hear_suboption(struct vm *vm, const uint8_t *content, size_t length)
{
    switch (content[0]) {
    case KNOWN_2: say_who_we_are(vm); break;
    case GET_VC_UUID: say_uuid(80, vm, 0x01); break;
    case GET_NAME: say_name(vm); break;
    case GET_BIOS_UUID: say_uuid(84, vm, 0x02); break;
    case GET_LOCATION_UUID: say_uuid(86, vm, 0x03); break;
    case WILL_PROXY: vm->will_proxy = 1; break;
    case GOAHEAD: go_ahead(vm, content + 1, length - 1); break;
    case PEER_OK: vm->will_proxy = 1; break;
    case WONT_PROXY: fail(vm, REFUSED); break;
    case NOTNOW: fail(vm, MOVE); break;
    case 3: fail(vm, vm->plan == ARRIVE ? MOVE : WRONG_ANSWER); break;
    default: say_suboption(UNKNOWN_1, content, 1);
    }
}

static void keep(struct vm *vm, uint8_t byte)
{
    if (vm->payload_length < sizeof vm->payload)
        vm->payload[vm->payload_length++] = byte;
}

static void hear(struct vm *vm, uint8_t byte)
{
    switch (vm->state) {
    case IN_DATA:
        if (byte == IAC)
            vm->state = AFTER_IAC;
        else
            hear_data(vm, byte);
        break;
    case AFTER_IAC:
        vm->state = IN_DATA;
        if (byte == IAC) {
            hear_data(vm, byte);
        } else if (byte == SB) {
            vm->state = IN_SB;
            vm->payload_length = 0;
        } else if (byte >= WILL) {
            vm->state = IN_OPTION;
            vm->verb = byte;
        }
        break;
    case IN_OPTION:
        vm->state = IN_DATA;
        negotiate(vm, vm->verb, byte);
        break;
    case IN_SB:
        if (byte == IAC)
            vm->state = AFTER_IAC_IN_SB;
        else
            keep(vm, byte);
        break;
    case AFTER_IAC_IN_SB:
        vm->state = IN_SB;
        if (byte == IAC) {
            keep(vm, byte);
        } else if (byte == SE) {
            vm->state = IN_DATA;
            if (vm->payload_length > 1 && vm->payload[0] == VMWARE)
                hear_suboption(vm, vm->payload + 1, vm->payload_length - 1u);
        }
        break;
    }
}

static void receive(struct vm *vm)
{
    static uint8_t bytes[1 << 16];
    ssize_t length = recv(vm->descriptor, bytes, sizeof bytes, 0);
    if (length <= 0) {
        if (length == 0 || errno != EAGAIN)
            fail(vm, vm->has_heard ? CLOSED : REFUSED);
        return;
    }
    vm->has_heard = 1;
    for (ssize_t i = 0; i < length && vm->descriptor >= 0; i++)
        hear(vm, bytes[i]);
    if (out_bytes)
        send_all(vm);
    if (vm->descriptor < 0 || vm->is_ready || !vm->will_proxy || vm->told < 4)
        return;
    become_ready(vm);
}

static void handle(struct vm *vm, uint32_t what)
{
    if (what & EPOLLOUT)
        begin(vm, EPOLL_CTL_MOD);
    if (vm->descriptor >= 0 && what & (EPOLLIN | EPOLLHUP | EPOLLERR))
        receive(vm);
}

static void end_overdue(uint64_t now)
{
    for (struct vm *vm = first_open, *next; vm; vm = next) {
        next = vm->next;
        uint64_t since_ns = vm->is_asking ? vm->asked_ns : vm->began_ns;
        if ((!vm->is_ready || vm->is_asking) && now > since_ns
            && (double)(now - since_ns) > timeout_s * 1e9)
            fail(vm, TIMEOUT);
    }
}

/* Handles pending events; waits for one up to `wait_ms`. */
static void turn(int wait_ms)
{
    static struct epoll_event events[256];
    static uint64_t looked_ns;
    int count = epoll_wait(epoll, events, 256, pace_ms ? 0 : wait_ms);
    for (int i = 0; i < count; i++) {
        struct vm *vm = events[i].data.ptr;
        if (vm->descriptor >= 0)
            handle(vm, events[i].events);
    }
    for (struct vm *vm; (vm = first_ended);) {
        first_ended = vm->next;
        free(vm);
    }
    uint64_t now = now_ns();
    if (pace_ms)
        for (struct vm *vm = first_open, *next; vm; vm = next) {
            next = vm->next;
            pace(vm, now);
        }
    if (now - looked_ns > 1000000000u) {
        looked_ns = now;
        end_overdue(now);
    }
}

/* The modes */

static void connect_all(enum plan plan, long count)
{
    for (long i = 0; i < count;) {
        while (i < count && unready_vms < 200)
            start(plan, i++, -1);
        turn(100);
    }
    while (unready_vms)
        turn(100);
}

static void storm(long count, long at_once)
{
    for (long i = 0; i < count || open_vms; turn(100))
        while (i < count && open_vms < at_once)
            start(BOOT, i++, -1);
}

static uint64_t herd(long count)
{
    connect_all(STAY, count);
    uint64_t began_ns = now_ns();
    for (struct vm *vm = first_open, *next; vm; vm = next) {
        next = vm->next;
        ask(vm);
    }
    while (answers < count && open_vms)
        turn(100);
    return began_ns;
}

static void wait_until(uint64_t end_ns)
{
    for (uint64_t now; (now = now_ns()) < end_ns;)
        turn(100);
}

static uint64_t steady(long count, double seconds)
{
    connect_all(ASK_AGAIN, count);
    uint64_t began_ns = now_ns();
    for (struct vm *vm = first_open, *next; vm; vm = next) {
        next = vm->next;
        ask(vm);
    }
    wait_until(began_ns + (uint64_t)(seconds * 1e9));
    return began_ns;
}

static void tell_ready(void)
{
    puts("ready");
    fflush(stdout);
}

static uint64_t idle(long count, double seconds)
{
    connect_all(STAY, count);
    tell_ready();
    uint64_t began_ns = now_ns();
    wait_until(began_ns + (uint64_t)(seconds * 1e9));
    return began_ns;
}

static void begin_move(struct vm *vm, uint32_t sequence)
{
    vm->asked_ns = now_ns();
    vm->is_asking = 1;
    sequence = htonl(sequence);
    say_suboption(40, &sequence, 4);
    send_all(vm);
}

static struct vm *last_open(void)
{
    struct vm *vm = first_open;
    while (vm && vm->next)
        vm = vm->next;
    return vm;
}

static int is_any_busy(void)
{
    for (struct vm *vm = first_open; vm; vm = vm->next)
        if (!vm->is_ready || vm->is_asking)
            return 1;
    return 0;
}

/* The next VMs to move are at the end of the list; new ones are put at its beginning. */
static uint64_t move(long count, double moves_per_s, double boots_per_s, double seconds)
{
    connect_all(STAY, count);
    tell_ready();
    mover = last_open();
    uint64_t began_ns = now_ns();
    long moves_begun = 0, boots_begun = 0;
    for (double s = 0; s < seconds || is_any_busy(); turn(1)) {
        s = (double)(now_ns() - began_ns) / 1e9;
        if (s >= seconds)
            continue;
        for (; (double)boots_begun < s * boots_per_s; boots_begun++)
            start(BOOT, count + boots_begun % (names > count ? names - count : 1), -1);
        for (; (double)moves_begun < s * moves_per_s && moves_begun < count && mover; moves_begun++) {
            struct vm *vm = mover;
            mover = vm->previous;
            begin_move(vm, (uint32_t)moves_begun);
        }
    }
    return began_ns;
}

/* Results */

static int ascending(const void *left, const void *right)
{
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

static double percentile(const struct latencies *latencies, double share)
{
    size_t place = (size_t)(share * (double)latencies->count);
    return latencies->count ? latencies->ms[place < latencies->count ? place : latencies->count - 1]
                            : 0;
}

static void print_latencies(const char *name, struct latencies *latencies)
{
    if (latencies->count)
        qsort(latencies->ms, latencies->count, sizeof *latencies->ms, ascending);
    printf(", \"%s\": {\"p50\": %.3f, \"p99\": %.3f, \"max\": %.3f}", name,
           percentile(latencies, 0.5), percentile(latencies, 0.99), percentile(latencies, 1));
}

static int print_result(const char *mode, uint64_t began_ns)
{
    struct rusage used;
    uint64_t failed = 0;
    double seconds = (double)(now_ns() - began_ns) / 1e9;
    getrusage(RUSAGE_SELF, &used);
    for (int i = 0; i < FAILURES; i++)
        failed += failures[i];
    printf("{\"mode\": \"%s\", \"boots\": %ld, \"answers\": %ld, \"moves\": %ld, \"connected\": %ld, "
           "\"failed\": %lu, \"failures\": {", mode, boots, answers, moves, open_vms,
           (unsigned long)failed);
    for (int i = 0, told = 0; i < FAILURES; i++)
        if (failures[i])
            printf("%s\"%s\": %lu", told++ ? ", " : "", failure_names[i],
                   (unsigned long)failures[i]);
    printf("}, \"seconds\": %.4f", seconds);
    print_latencies("boot_ms", &boot_ms);
    print_latencies("answer_ms", &answer_ms);
    print_latencies("move_ms", &move_ms);
    printf(", \"client_cpu_s\": %.3f}\n",
           (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec)
               + (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6);
    return failed ? 1 : 0;
}

static int read_tokens(const char *path)
{
    FILE *file = fopen(path, "r");
    long room = 0;
    if (!file)
        return 0;
    do {
        if (token_count == room)
            tokens = realloc(tokens, (size_t)(room = room ? 2 * room : 4096) * sizeof *tokens);
    } while (fscanf(file, "%63s", tokens[token_count]) == 1 && ++token_count);
    fclose(file);
    return 1;
}

static int usage(void)
{
    fprintf(stderr, "usage: load [--names N] [--first N] [--stride N] [--uri TEXT] "
                    "[--tokens FILE] [--hosts N] [--timeout S] PORT storm N C | burst N | "
                    "herd N | steady N SECONDS | idle N SECONDS | paced N C MS | moves N M B SECONDS\n");
    return 2;
}

int main(int count, char **arguments)
{
    static const struct option options[] = {
        {"names", required_argument, NULL, 'n'},  {"first", required_argument, NULL, 'f'},
        {"stride", required_argument, NULL, 's'}, {"uri", required_argument, NULL, 'u'},
        {"tokens", required_argument, NULL, 'k'}, {"hosts", required_argument, NULL, 'h'},
        {"timeout", required_argument, NULL, 't'}, {NULL, 0, NULL, 0}};
    for (int option; (option = getopt_long(count, arguments, "", options, NULL)) >= 0;)
        switch (option) {
        case 'n': names = atol(optarg); break;
        case 'f': first_name = atol(optarg); break;
        case 's': stride = atol(optarg); break;
        case 'u': uri = optarg; break;
        case 'k':
            if (!read_tokens(optarg))
                return usage();
            break;
        case 'h': hosts = atoi(optarg); break;
        case 't': timeout_s = atof(optarg); break;
        default: return usage();
        }
    if (count - optind < 3)
        return usage();
    port = atoi(arguments[optind]);
    const char *mode = arguments[optind + 1];
    double argument[4] = {0};
    int given = count - optind - 2;
    for (int i = 0; i < given && i < 4; i++)
        argument[i] = atof(arguments[optind + 2 + i]);
    long n = (long)argument[0];
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    epoll = epoll_create1(0);
    uint64_t began_ns = now_ns();
    if (!strcmp(mode, "storm") && given == 2) {
        storm(n, (long)argument[1]);
    } else if (!strcmp(mode, "burst") && given == 1) {
        storm(n, n);
    } else if (!strcmp(mode, "herd") && given == 1) {
        began_ns = herd(n);
    } else if (!strcmp(mode, "steady") && given == 2) {
        began_ns = steady(n, argument[1]);
    } else if (!strcmp(mode, "idle") && given == 2) {
        began_ns = idle(n, argument[1]);
    } else if (!strcmp(mode, "paced") && given == 3) {
        pace_ms = argument[2];
        storm(n, (long)argument[1]);
    } else if (!strcmp(mode, "moves") && given == 4) {
        began_ns = move(n, argument[1], argument[2], argument[3]);
    } else {
        return usage();
    }
    return print_result(mode, began_ns);
}

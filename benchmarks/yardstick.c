/* The C yardstick: the exchange of the metadata server from memory, and nothing else.
 *
 *     yardstick METADATA NETWORKDATA USERDATA
 *
 * Shows what the machine can do with one thread and epoll, without limits, log, look-up and vMotion.
 * The arguments are files with ready packets. Prints `listening on 127.0.0.1:PORT`. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SE = 240, SB = 250, WILL, WONT, DO, DONT, IAC };
enum { BINARY = 0, ECHO_ = 1, SGA = 3, VMWARE = 232 };
enum { KNOWN_1 = 0, UNKNOWN_2 = 3, DO_PROXY = 70, VM_VC_UUID = 80, GET_VC_UUID = 81,
       GET_LOCATION_UUID = 87 };

#define S(text) (text), sizeof(text) - 1

#define GREETING "\xff\xfb\x00\xff\xfb\x03\xff\xfb\x01\xff\xfd\x00\xff\xfd\x03\xff\xfd\xe8"
#define KNOWN_SUBOPTIONS_2 \
    "\xff\xfa\xe8\x01\x00\x01\x02\x03\x28\x29\x2b\x2c\x2d\x2e\x30\x46\x47\x49PQRSTUVW\xff\xf0"
#define WILL_PROXY "\xff\xfa\xe8\x47\xff\xf0"

enum state { IN_DATA, AFTER_IAC, IN_OPTION, IN_SB, AFTER_IAC_IN_SB };

struct connection {
    int descriptor;
    uint8_t state, verb, knows_vmware;
    uint16_t line_length, payload_length;
    size_t unsent_bytes;
    char *unsent;
    char line[64];
    uint8_t payload[256]; /* option and content of the current subnegotiation */
};

struct packet {
    const char *request;
    char *bytes;
    size_t length;
};

static struct packet packets[] = {
    {"!!REQUEST_METADATA#", NULL, 0},
    {"!!REQUEST_NETWORKDATA#", NULL, 0},
    {"!!REQUEST_USERDATA#", NULL, 0},
};

static int epoll;
static char out[1 << 20]; /* the answer to one received chunk */
static size_t out_bytes;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static void say(const void *bytes, size_t length)
{
    if (out_bytes + length <= sizeof out) {
        memcpy(out + out_bytes, bytes, length);
        out_bytes += length;
    }
}

static void say_option(uint8_t verb, uint8_t option)
{
    uint8_t bytes[] = {IAC, verb, option};
    say(bytes, sizeof bytes);
}

static void say_suboption(const uint8_t *content, size_t length)
{
    say(S("\xff\xfa\xe8"));
    say(content, length);
    say(S("\xff\xf0"));
}

static void negotiate(struct connection *c, uint8_t verb, uint8_t option)
{
    if (verb == WILL && option == VMWARE && !c->knows_vmware) {
        c->knows_vmware = 1;
        say(S(KNOWN_SUBOPTIONS_2));
    } else if (verb == WILL && option != BINARY && option != SGA && option != VMWARE) {
        say_option(DONT, option);
    } else if (verb == DO && option != BINARY && option != SGA && option != ECHO_) {
        say_option(WONT, option);
    }
}

static void hear_suboption(const uint8_t *content, size_t length)
{
    uint8_t code = content[0];
    if (code == KNOWN_1) {
        for (uint8_t get = GET_VC_UUID; get <= GET_LOCATION_UUID; get += 2)
            if (memchr(content + 1, get, length - 1))
                say_suboption(&get, 1);
    } else if (code == DO_PROXY) {
        say(S(WILL_PROXY));
    } else if (code < VM_VC_UUID || code > GET_LOCATION_UUID || code % 2) {
        say_suboption((uint8_t[]){UNKNOWN_2, code}, 2);
    }
}

static void hear_line(struct connection *c)
{
    for (size_t i = 0; i < sizeof packets / sizeof *packets; i++)
        if (c->line_length == strlen(packets[i].request)
            && !memcmp(c->line, packets[i].request, c->line_length))
            say(packets[i].bytes, packets[i].length);
    c->line_length = 0;
}

static void hear_data(struct connection *c, uint8_t byte)
{
    if (byte == '\n' || byte == '\r')
        hear_line(c);
    else if (c->line_length < sizeof c->line)
        c->line[c->line_length++] = byte;
}

static void keep(struct connection *c, uint8_t byte)
{
    if (c->payload_length < sizeof c->payload)
        c->payload[c->payload_length++] = byte;
}

static void hear(struct connection *c, uint8_t byte)
{
    switch (c->state) {
    case IN_DATA:
        if (byte == IAC)
            c->state = AFTER_IAC;
        else
            hear_data(c, byte);
        break;
    case AFTER_IAC:
        c->state = IN_DATA;
        if (byte == IAC) {
            hear_data(c, byte);
        } else if (byte == SB) {
            c->state = IN_SB;
            c->payload_length = 0;
        } else if (byte >= WILL) {
            c->state = IN_OPTION;
            c->verb = byte;
        }
        break;
    case IN_OPTION:
        c->state = IN_DATA;
        negotiate(c, c->verb, byte);
        break;
    case IN_SB:
        if (byte == IAC)
            c->state = AFTER_IAC_IN_SB;
        else
            keep(c, byte);
        break;
    case AFTER_IAC_IN_SB:
        c->state = IN_SB;
        if (byte == IAC) {
            keep(c, byte);
        } else if (byte == SE) {
            c->state = IN_DATA;
            if (c->payload_length > 1 && c->payload[0] == VMWARE)
                hear_suboption(c->payload + 1, c->payload_length - 1u);
        }
        break;
    }
}

static void end(struct connection *c)
{
    close(c->descriptor);
    free(c->unsent);
    free(c);
}

static void watch(struct connection *c, int how, uint32_t what)
{
    struct epoll_event event = {.events = what, .data.ptr = c};
    if (epoll_ctl(epoll, how, c->descriptor, &event))
        die("epoll_ctl");
}

/* Sends; queues what the socket does not accept, and reads nothing until the queue is empty. */
static void flush(struct connection *c)
{
    ssize_t sent = out_bytes ? send(c->descriptor, out, out_bytes, MSG_NOSIGNAL) : 0;
    if (sent < 0)
        sent = errno == EAGAIN ? 0 : (ssize_t)out_bytes; /* disconnected: the next read reports it */
    if ((size_t)sent < out_bytes) {
        c->unsent_bytes = out_bytes - (size_t)sent;
        c->unsent = malloc(c->unsent_bytes);
        memcpy(c->unsent, out + sent, c->unsent_bytes);
        watch(c, EPOLL_CTL_MOD, EPOLLOUT);
    }
    out_bytes = 0;
}

static void send_unsent(struct connection *c)
{
    out_bytes = c->unsent_bytes;
    memcpy(out, c->unsent, out_bytes);
    free(c->unsent);
    c->unsent = NULL;
    watch(c, EPOLL_CTL_MOD, EPOLLIN);
    flush(c);
}

static void receive(struct connection *c)
{
    uint8_t bytes[4096];
    ssize_t length = recv(c->descriptor, bytes, sizeof bytes, 0);
    if (length <= 0) {
        if (length == 0 || errno != EAGAIN)
            end(c);
        return;
    }
    for (ssize_t i = 0; i < length; i++)
        hear(c, bytes[i]);
    flush(c);
}

static void accept_all(int listener)
{
    int descriptor;
    while ((descriptor = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        struct connection *c = calloc(1, sizeof *c);
        c->descriptor = descriptor;
        watch(c, EPOLL_CTL_ADD, EPOLLIN);
        say(S(GREETING));
        flush(c);
    }
}

static void load(struct packet *packet, const char *path)
{
    FILE *file = fopen(path, "rb");
    packet->bytes = malloc(sizeof out / 4);
    if (!file)
        die(path);
    packet->length = fread(packet->bytes, 1, sizeof out / 4, file);
    fclose(file);
}

static int listen_on_loopback(void)
{
    int on = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* accepted sockets inherit it */
    if (bind(listener, (struct sockaddr *)&address, length) || listen(listener, 4096)
        || getsockname(listener, (struct sockaddr *)&address, &length))
        die("listen");
    printf("listening on 127.0.0.1:%d\n", ntohs(address.sin_port));
    fflush(stdout);
    return listener;
}

int main(int count, char **arguments)
{
    if (count != 4) {
        fprintf(stderr, "usage: yardstick METADATA NETWORKDATA USERDATA\n");
        return 2;
    }
    for (int i = 0; i < 3; i++)
        load(&packets[i], arguments[i + 1]);
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    epoll = epoll_create1(0);
    int listener = listen_on_loopback();
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL}, events[256];
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int ready = epoll_wait(epoll, events, 256, -1);
        for (int i = 0; i < ready; i++) {
            struct connection *c = events[i].data.ptr;
            if (!c)
                accept_all(listener);
            else if (c->unsent)
                send_unsent(c);
            else
                receive(c);
        }
    }
}

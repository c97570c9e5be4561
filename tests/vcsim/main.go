// VMware's vCenter simulator, as Debian packages it, for tests: see tests/simulator.py.
//
// It prints its address, and reads commands from its standard input, a line each:
//
//	move VM HOST    the VM runs on that host from now on
//	address HOST IP the host's own address from now on
//
// It ends when its input does. govmomi 0.24 sends everything at once: pages are ours.
package main

import (
	"bufio"
	"crypto/tls"
	"flag"
	"fmt"
	"net/url"
	"os"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// PropertyCollector sends no more objects at once than it is asked for.
type PropertyCollector struct {
	simulator.PropertyCollector
	rest []types.ObjectUpdate
}

func (pc *PropertyCollector) CreatePropertyCollector(ctx *simulator.Context, c *types.CreatePropertyCollector) soap.HasFault {
	return &methods.CreatePropertyCollectorBody{
		Res: &types.CreatePropertyCollectorResponse{Returnval: ctx.Session.Put(&PropertyCollector{}).Reference()},
	}
}

func (pc *PropertyCollector) WaitForUpdatesEx(ctx *simulator.Context, r *types.WaitForUpdatesEx) soap.HasFault {
	if len(pc.rest) == 0 {
		found := pc.PropertyCollector.WaitForUpdatesEx(ctx, r)
		body, ok := found.(*methods.WaitForUpdatesExBody)
		if !ok || body.Res == nil || body.Res.Returnval == nil {
			return found
		}
		for _, filter := range body.Res.Returnval.FilterSet {
			pc.rest = append(pc.rest, filter.ObjectSet...)
		}
	}
	most := len(pc.rest)
	if r.Options != nil && r.Options.MaxObjectUpdates > 0 && int(r.Options.MaxObjectUpdates) < most {
		most = int(r.Options.MaxObjectUpdates)
	}
	page := pc.rest[:most]
	pc.rest = pc.rest[most:]
	set := &types.UpdateSet{
		Version:   "-",
		FilterSet: []types.PropertyFilterUpdate{{Filter: pc.Filter[0], ObjectSet: page}},
		Truncated: types.NewBool(len(pc.rest) > 0),
	}
	return &methods.WaitForUpdatesExBody{Res: &types.WaitForUpdatesExResponse{Returnval: set}}
}

func named(kind, name string) mo.Reference {
	for _, entity := range simulator.Map.All(kind) {
		if entity.Entity().Name == name {
			return entity
		}
	}
	return nil
}

func obey(words []string) {
	switch words[0] {
	case "move":
		host := named("HostSystem", words[2]).Reference()
		simulator.Map.Update(named("VirtualMachine", words[1]), []types.PropertyChange{{Name: "runtime.host", Val: host}})
	case "address":
		host := named("HostSystem", words[1]).(*simulator.HostSystem)
		cards := []types.HostVirtualNic{{Device: "vmk0", Spec: types.HostVirtualNicSpec{Ip: &types.HostIpConfig{IpAddress: words[2]}}}}
		simulator.Map.Update(host, []types.PropertyChange{{Name: "config.network.vnic", Val: cards}})
	}
	fmt.Println("done")
}

func port(uri string) types.BaseVirtualDevice {
	backing := &types.VirtualSerialPortURIBackingInfo{
		VirtualDeviceURIBackingInfo: types.VirtualDeviceURIBackingInfo{
			ServiceURI: uri, Direction: "client", ProxyURI: "telnet://127.0.0.1:13370",
		},
	}
	connected := &types.VirtualDeviceConnectInfo{StartConnected: true, Connected: true}
	device := types.VirtualDevice{Key: 9000, Backing: backing, Connectable: connected}
	return &types.VirtualSerialPort{VirtualDevice: device, YieldOnPoll: true}
}

func main() {
	vms := flag.Int("vms", 4, "")
	hosts := flag.Int("hosts", 2, "")
	listen := flag.String("listen", "127.0.0.1:0", "")
	certificate := flag.String("certificate", "", "PEM, with its key")
	uri := flag.String("uri", "", "of a serial port that each VM gets")
	flag.Parse()
	pair, err := tls.LoadX509KeyPair(*certificate, *certificate)
	if err != nil {
		panic(err)
	}
	model := simulator.VPX()
	model.Cluster, model.Host, model.ClusterHost, model.Machine = 1, 0, *hosts, *vms
	if err := model.Create(); err != nil {
		panic(err)
	}
	collector := &PropertyCollector{}
	collector.Self = simulator.Map.Get(model.ServiceContent.PropertyCollector).Reference()
	simulator.Map.Put(collector)
	for _, vm := range simulator.Map.All("VirtualMachine") {
		if *uri != "" {
			hardware := &vm.(*simulator.VirtualMachine).Config.Hardware
			hardware.Device = append(hardware.Device, port(*uri))
		}
	}
	model.Service.Listen = &url.URL{Host: *listen, User: url.UserPassword("reader", "pass & <word>")}
	model.Service.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	server := model.Service.NewServer()
	fmt.Println(server.URL.Host)
	input := bufio.NewScanner(os.Stdin)
	for input.Scan() {
		obey(strings.Fields(input.Text()))
	}
}

package node

import (
	"net"
	"net/url"
	"strings"
)

// RelayNext is what a person can do about a relay that cannot be reached. trouble
// is the error; "" is one that has not answered yet.
func RelayNext(relay, trouble string) string {
	here := false
	if u, err := url.Parse(relay); err == nil {
		ip := net.ParseIP(u.Hostname())
		here = u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
	}
	has := func(parts ...string) bool {
		for _, p := range parts {
			if strings.Contains(trouble, p) {
				return true
			}
		}
		return false
	}
	switch {
	case trouble == "":
		return "wait a moment; if it stays so, look whether this machine may reach it"
	case has("connection refused") && here:
		return "nothing listens there on this machine: start the geist that has it (\"geist up\" has one), or name another relay (--relay)"
	case has("connection refused"):
		return "the machine is there and no relay listens: compare the port, ask whoever runs it, or name another relay (--relay)"
	case has("no such host"):
		return "the name is not known: correct the URL, or look at this machine's network and DNS"
	case has("x509", "tls:"):
		return "its certificate is not good for that name: correct the URL, look at this machine's clock, or ask whoever runs it"
	case has("expected handshake response status code"):
		return "what answers there is no relay: compare the path of the URL"
	}
	return "look whether it is running, and whether this machine may reach it; or name another relay (--relay)"
}

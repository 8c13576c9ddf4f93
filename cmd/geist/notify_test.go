package main

import (
	"net"
	"path/filepath"
	"runtime"
	"testing"
)

// TestNotify: a service manager gets the state as one datagram, and one that is
// gone is an error.
func TestNotify(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("there are no datagram sockets with paths here")
	}
	e, _, _ := command(t)
	if err := e.notify("READY=1"); err != nil {
		t.Errorf("without a service manager: %v", err)
	}
	path := filepath.Join(t.TempDir(), "notify")
	e.getenv = func(k string) string { return map[string]string{"NOTIFY_SOCKET": path}[k] }
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.notify("READY=1"); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 64)
	n, err := l.Read(b)
	if err != nil || string(b[:n]) != "READY=1" {
		t.Errorf("got %q, %v", b[:n], err)
	}
	l.Close()
	if err := e.notify("STOPPING=1"); err == nil {
		t.Error("nobody listens, and that was no error")
	}
}

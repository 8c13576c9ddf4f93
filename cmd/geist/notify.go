package main

import (
	"fmt"
	"net"
)

// notify tells the service manager something, in the protocol of sd_notify(3): one
// datagram to the Unix socket in NOTIFY_SOCKET. Without that nobody is told.
func (e *env) notify(state string) error {
	path := e.getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	// A name that begins with @ is in the abstract name space, which package net writes so too.
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("tell the service manager: %w", err)
	}
	defer c.Close()
	if _, err := c.Write([]byte(state)); err != nil {
		return fmt.Errorf("tell the service manager: %w", err)
	}
	return nil
}

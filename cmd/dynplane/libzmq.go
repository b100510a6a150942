//go:build cgo && !nozmq

package main

import (
	"fmt"

	"github.com/pebbe/zmq4" //nolint:depguard // it tells its version here, and opens no socket
)

func libzmqVersion() string {
	major, minor, patch := zmq4.Version()
	return fmt.Sprintf("%d.%d.%d", major, minor, patch)
}

package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

// Exit codes.
const (
	exitFailure = 1
	exitUsage   = 2
	exitTimeout = 124 // as timeout(1) has it
)

// exitError is an error with an exit code of its own.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format, args...)}
}

// argCount validates the number of arguments. Its error shows the usage.
func argCount(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case least <= len(args) && len(args) <= most:
			return nil
		case len(args) == 1:
			return usagef("1 argument: want %s", cmd.UseLine())
		}
		return usagef("%d arguments: want %s", len(args), cmd.UseLine())
	}
}

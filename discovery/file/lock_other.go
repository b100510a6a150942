//go:build !linux && !darwin

package file

import (
	"errors"
	"os"
)

const (
	supported = false
	openFlags = os.O_RDONLY
)

func tryLock(*os.File, lockMode) (bool, error) { return false, errors.ErrUnsupported }

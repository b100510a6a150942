package file

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"
)

const (
	// maxValue bounds the memory that another process's file can take.
	maxValue = 16 << 20

	// tempPrefix marks files that are being written. Watches ignore them.
	tempPrefix = ".tmp_"
)

// publish writes a temporary file beside path, and calls commit while the directory
// is locked, which renames or links it to path: no reader finds a part of it.
// publish creates the directory if it is missing. The file stays open, for reading,
// if commit returns nil. If commit is not called, or fails, nothing is left.
func publish(ctx context.Context, path string, value []byte, commit func(temp *os.File) error) error {
	for attempt := 0; ; attempt++ {
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil { // less the umask, as Dynamo does
			return err
		}
		err := publishOnce(ctx, filepath.Dir(path), value, commit)
		// Another process may be removing the directory, but not forever.
		if attempt == 2 || !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
}

func publishOnce(ctx context.Context, dir string, value []byte, commit func(*os.File) error) (err error) {
	temp, err := os.OpenFile(filepath.Join(dir, fmt.Sprintf("%s%016x", tempPrefix, rand.Uint64())), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return err
	}
	defer func() {
		os.Remove(temp.Name()) // fails if it was renamed
		if err != nil {
			temp.Close()
		}
	}()
	if _, err := temp.Write(value); err != nil {
		return err
	}
	unlock, err := lock(ctx, dir, exclusive)
	if err != nil {
		return err
	}
	defer unlock()
	// The lock may have been awaited for longer than the TTL.
	if err := os.Chtimes(temp.Name(), time.Time{}, time.Now()); err != nil {
		return err
	}
	return commit(temp)
}

var errTooLarge = fmt.Errorf("the file is larger than %d bytes", maxValue)

// read reads a regular file. It never blocks, even if the file has been replaced
// by something else since it was examined.
func read(path string) ([]byte, error) {
	f, err := os.OpenFile(path, openFlags, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: want a regular file, got %v", path, info.Mode().Type())
	}
	data, err := io.ReadAll(io.LimitReader(f, maxValue+1))
	if err == nil && len(data) > maxValue {
		err = errTooLarge
	}
	return data, err
}

// ignoreNotExist returns nil for a file that another process has removed already.
func ignoreNotExist(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

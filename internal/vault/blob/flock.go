package blob

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// lockPatience is how long a writer waits for another one's lock. A holder keeps it for one rename;
// one that keeps it longer is stopped or hangs on its disk.
const lockPatience = 30 * time.Second

// lock takes the directory's lock file: first this process's turn, then flock against the others.
func (f *File) lock(ctx context.Context) (unlock func(), err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, lockPatience,
		fmt.Errorf("another process has held %s for %v", filepath.Join(f.dir, lockFile), lockPatience))
	defer cancel()
	select {
	case f.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	file, err := os.OpenFile(filepath.Join(f.dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		<-f.turn
		return nil, err
	}
	if err := flock(ctx, file); err != nil {
		<-f.turn
		return nil, errors.Join(err, file.Close())
	}
	return func() {
		_ = file.Close() // which releases the lock
		<-f.turn
	}, nil
}

// flock polls, because a blocking flock(2) could not be interrupted by the context.
func flock(ctx context.Context, file *os.File) error {
	for pause := time.Millisecond; ; pause = min(2*pause, 20*time.Millisecond) {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return fmt.Errorf("lock %s: %w", file.Name(), err)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}

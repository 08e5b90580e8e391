package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/pprof"

	"lifeboat.dev/lifeboat/internal/vault/blob"
	"lifeboat.dev/lifeboat/internal/vault/repo"
)

// volumeWork is the task that doVolumeWork does.
const volumeWork = "volume"

// doVolumeWork saves a directory (save REPOSITORY DIRECTORY PARENT) or restores one (restore REPOSITORY
// DIRECTORY SNAPSHOT) with the library that the mover uses. LIFEBOAT_BENCH_PROFILE names a file for a
// profile of the processor's time.
func doVolumeWork(ctx context.Context, args []string, out io.Writer) (err error) {
	if len(args) != 4 {
		return fmt.Errorf("want a verb, a repository, a directory and a snapshot, got %q", args)
	}
	if path := os.Getenv("LIFEBOAT_BENCH_PROFILE"); path != "" {
		f, err := os.Create(path)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	store, err := blob.OpenFile(args[1])
	if err != nil {
		return err
	}
	r, err := repo.Open(ctx, store, []byte(volumePassword()))
	if err != nil {
		return err
	}
	if args[0] == "restore" {
		snapshot, err := r.LoadSnapshot(ctx, args[3])
		if err != nil {
			return err
		}
		_, err = r.RestoreDir(ctx, snapshot.Tree, args[2], repo.RestoreDirOptions{})
		return err
	}
	saver, err := r.NewSaver(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, saver.Close(ctx)) }()
	var opts repo.SaveDirOptions
	if args[3] != "" {
		parent, err := r.LoadSnapshot(ctx, args[3])
		if err != nil {
			return err
		}
		opts.Parent = &parent
	}
	result, err := saver.SaveDir(ctx, args[2], opts)
	if err != nil {
		return err
	}
	id, err := saver.SaveSnapshot(ctx, repo.Snapshot{Time: result.Started, Tree: result.Tree, Paths: []string{args[2]}})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(out, id)
	return err
}

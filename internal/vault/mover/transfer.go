package mover

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/driver"
	"lifeboat.dev/lifeboat/internal/vault/repo"
)

// save copies the directory into the repository as a snapshot. What cannot be read to its end makes the
// copy incomplete, which is an error: no snapshot is left that looks whole.
func save(ctx context.Context, r *repo.Repo, path string, o driver.MoverOrder, count func(driver.Progress)) (report driver.MoverReport, err error) {
	saver, err := r.NewSaver(ctx)
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, saver.Close(ctx)) }()
	result, err := saver.SaveDir(ctx, path, repo.SaveDirOptions{
		Exclude:  passing,
		Progress: func(p repo.Progress) { count(driver.Progress{Bytes: p.Bytes, Files: p.Files}) },
	})
	if err != nil {
		return report, err
	}
	if len(result.Missing) > 0 {
		return report, dr.Errorf(dr.ClassIncomplete, errors.New(some(result.Missing)), "Make these files readable for the mover, then back up again.",
			"%d entries of the volume cannot be read", len(result.Missing))
	}
	snapshot := repo.Snapshot{Tree: result.Tree, Hostname: o.Host, Paths: []string{"/"}}
	for _, label := range slices.Sorted(maps.Keys(o.Labels)) {
		snapshot.Tags = append(snapshot.Tags, label+"="+o.Labels[label])
	}
	id, err := saver.SaveSnapshot(ctx, snapshot)
	if err != nil {
		return report, err
	}
	return driver.MoverReport{Snapshot: id.String(), Bytes: result.Bytes, StoredBytes: saver.Stats().StoredBytes, Files: result.Files}, nil
}

// load brings a snapshot back into the directory; when it returns, all of it is on disk. Owners that
// cannot be given are an error: an application that may not read its data has not been restored.
func load(ctx context.Context, r *repo.Repo, path string, o driver.MoverOrder, count func(driver.Progress)) (driver.MoverReport, error) {
	snapshot, err := r.LoadSnapshot(ctx, o.Snapshot)
	if err != nil {
		return driver.MoverReport{}, err
	}
	result, err := r.RestoreDir(ctx, snapshot.Tree, path, repo.RestoreDirOptions{
		Exclude:  passing,
		Progress: func(p repo.Progress) { count(driver.Progress{Bytes: p.Bytes, Files: p.Files}) },
	})
	if err != nil {
		return driver.MoverReport{}, err
	}
	return driver.MoverReport{Snapshot: o.Snapshot, Bytes: result.Bytes, Files: result.Files}, nil
}

// passing names what belongs to one volume at one time and not to its data.
func passing(rel string, _ bool) bool {
	own, ok := strings.CutPrefix(rel, ownDir+"/")
	return rel == "lost+found" || ok && own != beaconFile
}

// some joins the first of many.
func some(all []string) string {
	const most = 5
	if len(all) <= most {
		return strings.Join(all, "; ")
	}
	return fmt.Sprintf("%s; and %d more", strings.Join(all[:most], "; "), len(all)-most)
}

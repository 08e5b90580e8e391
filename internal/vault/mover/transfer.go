package mover

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"syscall"

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
	parent, err := earlier(ctx, r, o.Parent)
	if err != nil {
		return report, err
	}
	result, err := saver.SaveDir(ctx, path, repo.SaveDirOptions{
		Parent:   parent,
		Exclude:  passing,
		Progress: func(p repo.Progress) { count(driver.Progress{Bytes: p.Bytes, Files: p.Files}) },
	})
	if err != nil {
		return report, err
	}
	unread, warnings := sift(result)
	if len(unread) > 0 {
		return report, dr.Errorf(dr.ClassIncomplete, errors.New(some(unread)), "Make these readable for the mover, then back up again.",
			"%d entries of the volume cannot be read", len(unread))
	}
	snapshot := repo.Snapshot{Time: result.Started, Tree: result.Tree, Hostname: o.Host, Paths: []string{"/"}}
	if parent != nil {
		snapshot.Parent = &parent.ID
	}
	for _, label := range slices.Sorted(maps.Keys(o.Labels)) {
		snapshot.Tags = append(snapshot.Tags, label+"="+o.Labels[label])
	}
	id, err := saver.SaveSnapshot(ctx, snapshot)
	if err != nil {
		return report, err
	}
	return driver.MoverReport{Snapshot: id.String(), Bytes: result.Bytes, StoredBytes: saver.Stats().StoredBytes,
		Files: result.Files, Unchanged: result.Unchanged, Warnings: warnings}, nil
}

// earlier is the snapshot to compare with. One that was forgotten since only makes the copy take longer.
func earlier(ctx context.Context, r *repo.Repo, id string) (*repo.Snapshot, error) {
	if id == "" {
		return nil, nil
	}
	snapshot, err := r.LoadSnapshot(ctx, id)
	if errors.Is(err, repo.ErrNotFound) || errors.Is(err, repo.ErrDamaged) {
		return nil, nil
	}
	return &snapshot, err
}

// sift tells what could not be read from what was no longer there to be read: an application that makes
// and removes files while it is being copied is no fault.
func sift(result repo.SaveDirResult) (unread, warnings []string) {
	var vanished []string
	for _, m := range result.Missing {
		if name, ok := strings.CutSuffix(m, ": "+syscall.ENOENT.Error()); ok && name != "." {
			vanished = append(vanished, name)
		} else {
			unread = append(unread, m)
		}
	}
	if len(vanished) > 0 {
		warnings = append(warnings, fmt.Sprintf("vanished while they were being copied: %s", some(vanished)))
	}
	if len(result.Changed) > 0 {
		warnings = append(warnings, fmt.Sprintf("changed while they were being copied: %s", some(result.Changed)))
	}
	return unread, warnings
}

// load brings a snapshot back into the directory; when it returns, all of it is on disk. The file last,
// if there is one, comes when all others are.
func load(ctx context.Context, r *repo.Repo, path, last string, snapshot repo.Snapshot, count func(driver.Progress)) (driver.MoverReport, error) {
	report := driver.MoverReport{Snapshot: snapshot.ID.String()}
	part := func(exclude func(rel string, dir bool) bool) error {
		before := report
		result, err := r.RestoreDir(ctx, snapshot.Tree, path, repo.RestoreDirOptions{
			Exclude: exclude,
			Progress: func(p repo.Progress) {
				count(driver.Progress{Bytes: before.Bytes + p.Bytes, Files: before.Files + p.Files})
			},
		})
		report.Bytes, report.Files = before.Bytes+result.Bytes, before.Files+result.Files
		if err == nil && len(result.Warnings) > 0 {
			report.Warnings = append(report.Warnings, some(result.Warnings))
		}
		return err
	}
	err := part(func(rel string, dir bool) bool { return passing(rel, dir) || last != "" && rel == last })
	if err == nil && last != "" {
		err = part(func(rel string, _ bool) bool { return rel != last && !strings.HasPrefix(last, rel+"/") })
	}
	if err != nil {
		return driver.MoverReport{}, err
	}
	return report, nil
}

// sweep removes what a restore that was killed left behind: files under temporary names, which
// RestoreDir gives to each file until it is whole. It runs only where nobody else has written yet.
func sweep(root *os.Root) error {
	return fs.WalkDir(root.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("looking for what an earlier try left: %w", err)
		}
		if !e.Type().IsRegular() && e.Type()&fs.ModeSymlink == 0 || !temporary(e.Name()) {
			return nil
		}
		if err := root.Remove(name); err != nil {
			return fmt.Errorf("removing what an earlier try left: %w", err)
		}
		return nil
	})
}

// temporary says whether package repo gave this name to a file that is not whole.
func temporary(name string) bool {
	text, ok := strings.CutPrefix(name, ".lifeboat-")
	return ok && len(text) == 16 && strings.Trim(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") == ""
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

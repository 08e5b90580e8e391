package mover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/driver"
	"lifeboat.dev/lifeboat/internal/vault/repo"
)

// MountVariable names the environment variable that holds the volume's mount path where the order gives
// none.
const MountVariable = "LIFEBOAT_MOUNT"

// What Lifeboat keeps in a volume, below .lifeboat.
const (
	ownDir        = ".lifeboat"
	beaconFile    = "beacon.json"    // dr.Beacon, the newest
	restoringFile = "restoring.json" // a restore that has not ended
	restoredFile  = "restored.json"  // the last restore that has
)

// restoreMark is what restoring.json and restored.json hold.
type restoreMark struct {
	Point  string    `json:"point"`
	Time   time.Time `json:"time"`
	Bytes  int64     `json:"bytes,omitempty"`
	Files  int       `json:"files,omitempty"`
	Beacon dr.Beacon `json:"beacon,omitzero"`
}

// volume is a mounted volume. Its own files are reached through root, which follows no link that leads
// out of the volume: what lies in it is the application's to decide.
type volume struct {
	path string
	root *os.Root
	now  func() time.Time
}

func openVolume(path string) (*volume, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, dr.Errorf(dr.ClassInternal, err, "Look at the mover's pod: the claim should be mounted there.", "the mover finds no volume at %q", path)
	}
	return &volume{path: path, root: root, now: time.Now}, nil
}

func (v *volume) close() { _ = v.root.Close() }

// refuse says why an order must not be carried out, before anything is changed or the vault is asked.
func (v *volume) refuse(o driver.MoverOrder) error {
	restoring, err := v.mark(restoringFile)
	if err != nil {
		return err
	}
	if o.Verb == driver.MoverProtect {
		if restoring != nil {
			return dr.Errorf(dr.ClassBlocked, nil, "Let that restore end first.", "the volume is not whole: the restore of recovery point %s has not ended", restoring.Point)
		}
		return nil
	}
	if o.Point == "" || o.Snapshot == "" {
		return errors.New("the order to restore names no recovery point or no snapshot")
	}
	if restoring != nil {
		if restoring.Point != o.Point {
			return dr.Errorf(dr.ClassBlocked, nil, "Let that restore end first, or empty the volume.",
				"the restore of another recovery point, %s, has not ended", restoring.Point)
		}
		return nil
	}
	if restored, err := v.restored(o.Point); err != nil || restored.Done {
		return err
	}
	stray, err := v.stray()
	if err != nil {
		return err
	}
	if stray != "" {
		return dr.Errorf(dr.ClassBlocked, nil, "Empty the volume, or restore into another claim.", "the volume holds data that Lifeboat did not put there, for example %s", stray)
	}
	return nil
}

// stray returns the name of something in the volume that is neither ours nor the file system's.
func (v *volume) stray() (string, error) {
	entries, err := os.ReadDir(v.path)
	if err != nil {
		return "", fmt.Errorf("looking into the volume: %w", err)
	}
	for _, e := range entries {
		if e.Name() != ownDir && e.Name() != "lost+found" {
			return e.Name(), nil
		}
	}
	return "", nil
}

// protect writes the next beacon and then saves the volume, so that whatever the application had on disk
// at the beacon's time is in the copy.
func (v *volume) protect(ctx context.Context, r *repo.Repo, o driver.MoverOrder, w *worker) (driver.MoverReport, error) {
	w.set("writing the beacon")
	beacon := o.Beacon
	last, err := v.beacon()
	if err != nil {
		return driver.MoverReport{}, err
	}
	beacon.Sequence, beacon.Time = 1, v.now().UTC()
	if last != nil {
		beacon.Sequence = last.Sequence + 1
	}
	w.touched = true
	if err := v.write(beaconFile, beacon); err != nil {
		return driver.MoverReport{}, err
	}
	w.set("saving files")
	report, err := save(ctx, r, v.path, o, w.count)
	if err != nil {
		return driver.MoverReport{}, err
	}
	report.Beacon = beacon
	return report, nil
}

// restore marks the volume as not whole, brings the snapshot back, and takes the mark away once all of
// it is on disk.
func (v *volume) restore(ctx context.Context, r *repo.Repo, o driver.MoverOrder, w *worker) (driver.MoverReport, error) {
	w.set("looking for the snapshot")
	snapshot, err := r.LoadSnapshot(ctx, o.Snapshot)
	if err != nil {
		return driver.MoverReport{}, err
	}
	w.set("marking the volume")
	if begun, err := v.mark(restoringFile); err != nil {
		return driver.MoverReport{}, err
	} else if begun != nil {
		w.touched = true
		if err := sweep(v.root); err != nil {
			return driver.MoverReport{}, err
		}
	}
	w.touched = true
	mark := restoreMark{Point: o.Point, Time: v.now().UTC()}
	if err := v.write(restoringFile, mark); err != nil {
		return driver.MoverReport{}, err
	}
	if o.Last != "" {
		if err := v.root.Remove(o.Last); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return driver.MoverReport{}, fmt.Errorf("removing %s, which comes last: %w", o.Last, err)
		}
	}
	w.set("restoring files")
	report, err := load(ctx, r, v.path, o.Last, snapshot, w.count)
	if err != nil {
		return driver.MoverReport{}, err
	}
	w.set("reading the beacon back")
	beacon, err := v.beacon()
	if err != nil {
		return driver.MoverReport{}, err
	}
	if beacon == nil {
		return driver.MoverReport{}, dr.Errorf(dr.ClassIncomplete, nil, "Restore from another recovery point.", "snapshot %s holds no beacon", o.Snapshot)
	}
	mark.Time, mark.Bytes, mark.Files, mark.Beacon = v.now().UTC(), report.Bytes, report.Files, *beacon
	if err := v.write(restoredFile, mark); err != nil {
		return driver.MoverReport{}, err
	}
	if err := v.remove(restoringFile); err != nil {
		return driver.MoverReport{}, err
	}
	report.Beacon, report.Done = mark.Beacon, true
	return report, nil
}

// restored reports the restore of a point if it ended.
func (v *volume) restored(point string) (driver.MoverReport, error) {
	restoring, err := v.mark(restoringFile)
	if err != nil || restoring != nil {
		return driver.MoverReport{}, err
	}
	mark, err := v.mark(restoredFile)
	if err != nil || mark == nil || mark.Point != point {
		return driver.MoverReport{}, err
	}
	return driver.MoverReport{Bytes: mark.Bytes, Files: mark.Files, Beacon: mark.Beacon, Done: true}, nil
}

func (v *volume) beacon() (*dr.Beacon, error) { return read[dr.Beacon](v, beaconFile) }

func (v *volume) mark(name string) (*restoreMark, error) { return read[restoreMark](v, name) }

// read returns nil when there is no such file. One that cannot be read is an error: to take it for
// missing would start a sequence anew, or take half a restore for the truth.
func read[T any](v *volume, name string) (*T, error) {
	raw, err := v.root.ReadFile(path.Join(ownDir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading Lifeboat's mark in the volume: %w", err)
	}
	value := new(T)
	if err := json.Unmarshal(raw, value); err != nil {
		return nil, dr.Errorf(dr.ClassBlocked, err, "Somebody changed it: look into the volume, then remove the file.", "Lifeboat's mark %s/%s in the volume cannot be read", ownDir, name)
	}
	return value, nil
}

// write replaces a file at once and returns when that is on disk.
func (v *volume) write(name string, value any) error {
	raw, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err
	}
	if err := v.root.Mkdir(ownDir, 0o755); err == nil {
		if err := v.sync("."); err != nil {
			return err
		}
	} else if !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("making Lifeboat's directory in the volume: %w", err)
	}
	draft := path.Join(ownDir, "."+name+".new")
	f, err := v.root.OpenFile(draft, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return fmt.Errorf("writing Lifeboat's mark in the volume: %w", err)
	}
	_, err = f.Write(append(raw, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = v.root.Rename(draft, path.Join(ownDir, name))
	}
	if err != nil {
		return fmt.Errorf("writing Lifeboat's mark in the volume: %w", err)
	}
	return v.sync(ownDir)
}

func (v *volume) remove(name string) error {
	if err := v.root.Remove(path.Join(ownDir, name)); err != nil {
		return fmt.Errorf("removing Lifeboat's mark in the volume: %w", err)
	}
	return v.sync(ownDir)
}

// sync puts a directory's entries on disk.
func (v *volume) sync(dir string) error {
	d, err := v.root.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("putting %s on disk: %w", dir, err)
	}
	return nil
}

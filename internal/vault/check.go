package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/vault/blob"
	"lifeboat.dev/lifeboat/internal/vault/repo"
)

// CheckReport is what Check found.
type CheckReport struct {
	Records    int          `json:"records"`
	Points     int          `json:"points"`
	LogParts   int          `json:"logParts,omitempty"`
	Repository *repo.Report `json:"repository"`
	// Problems name what is damaged or missing, of records and of the repository.
	Problems []string `json:"problems"`
}

// Check verifies the whole vault: that every record can be opened and is in its place, that the snapshots
// of every recovery point are there, and that the repository is sound, with readData logs and repository to
// the last byte. The error says that the check could not be made, not that it found something.
func Check(ctx context.Context, v *Vault, readData bool, say Say) (*CheckReport, error) {
	report := &CheckReport{Problems: []string{}}
	// Points before snapshots: what a point names was stored before it.
	points, err := checkRecords(ctx, v, report)
	if err != nil {
		return nil, err
	}
	if err := checkPoints(ctx, v, report, points); err != nil {
		return nil, err
	}
	if err := checkLogs(ctx, v, report, readData); err != nil {
		return nil, err
	}
	if report.Repository, err = v.repo.Check(ctx, repo.CheckOptions{ReadData: readData, Progress: say.progress()}); err != nil {
		return nil, failed(err, "cannot check the vault at %s", v.Location())
	}
	report.Problems = append(report.Problems, report.Repository.Problems...)
	return report, nil
}

// checkRecords opens every record and returns the recovery points, by the names of their records.
func checkRecords(ctx context.Context, v *Vault, report *CheckReport) (map[string]dr.RecoveryPoint, error) {
	points := map[string]dr.RecoveryPoint{}
	for info, err := range v.store.List(ctx, controlPrefix) {
		if err != nil {
			return nil, failed(err, "cannot list the records of the vault at %s", v.Location())
		}
		var body json.RawMessage
		o, err := v.store.Get(ctx, info.Name, blob.Range{})
		if errors.Is(err, blob.ErrNotFound) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, failed(err, "cannot read %s from the vault at %s", info.Name, v.Location())
		}
		report.Records++
		err = v.decode(info.Name, o.Data, &body)
		if parts := strings.Split(info.Name, "/"); err == nil && len(parts) == 5 && parts[1] == appsDir && parts[3] == "points" {
			var p dr.RecoveryPoint
			if err = json.Unmarshal(body, &p); err == nil && (p.Application != parts[2] || p.ID != parts[4]) {
				err = fmt.Errorf("it is of recovery point %s of %s", p.ID, p.Application)
			}
			points[info.Name] = p
		}
		if err != nil {
			report.Problems = append(report.Problems, fmt.Sprintf("%s: %v", info.Name, err))
		}
	}
	report.Points = len(points)
	return points, nil
}

func checkPoints(ctx context.Context, v *Vault, report *CheckReport, points map[string]dr.RecoveryPoint) error {
	snapshots, err := repo.SnapshotIDs(ctx, v.repo)
	if err != nil {
		return failed(err, "cannot list the snapshots of the vault at %s", v.Location())
	}
	there := make(map[string]bool, len(snapshots))
	for _, id := range snapshots {
		there[id.String()] = true
	}
	for name, p := range points {
		for _, id := range snapshotsOf(&p) {
			if there[id] {
				continue
			}
			// A point that was removed meanwhile has lost its record first.
			if _, err := v.store.Stat(ctx, name); errors.Is(err, blob.ErrNotFound) {
				break
			}
			report.Problems = append(report.Problems, fmt.Sprintf("recovery point %s of %s: its snapshot %.8s is missing", p.ID, p.Application, id))
		}
	}
	slices.Sort(report.Problems)
	return nil
}

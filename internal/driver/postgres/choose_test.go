package postgres

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	corev1 "k8s.io/api/core/v1"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/driver"
)

// at is an instant of the tests' clock.
func at(second int) time.Time { return time.Date(2026, 1, 1, 0, 0, second, 0, time.UTC) }

// TestChoose: which base backup is taken, which pieces, and what a gap is called. Segments are of 16 MiB.
func TestChoose(t *testing.T) {
	t.Parallel()
	copied := func(name, stop string, ended int) dr.DataPoint {
		return dr.DataPoint{Datastore: "orders", Snapshot: name, Beacon: dr.Beacon{Epoch: 1}, Postgres: &dr.PostgresCopy{System: "1", Timeline: 1, Stop: stop, Ended: at(ended), SegmentSize: 16 << 20}}
	}
	piece := func(timeline uint32, from, to uint64, second int) driver.LogPiece {
		return driver.LogPiece{System: "1", Timeline: timeline, From: from, To: to, Beacon: dr.Beacon{Time: at(second)}}
	}
	first, second := copied("first", "0/2000100", 10), copied("second", "0/5000100", 30)
	whole := []driver.LogPiece{piece(1, 0x2000000, 0x3000400, 15), piece(1, 0x3000400, 0x5000800, 25), piece(1, 0x5000000, 0x6000800, 35), piece(1, 0x6000800, 0x6000900, 40)}
	gap := []driver.LogPiece{whole[0], piece(1, 0x3000500, 0x5000800, 25), whole[2], whole[3]}
	turned := []driver.LogPiece{whole[0], whole[1], piece(2, 0x4000000, 0x4000900, 50)}
	histories := map[uint32][]byte{2: []byte("1\t0/4000000\tno recovery target specified\n"), 3: []byte("1\t0/1000000\tbefore\n")}
	for _, c := range []struct {
		name   string
		pieces []driver.LogPiece
		target driver.RecoveryTarget
		base   string
		parts  int
		want   string // in the error
	}{
		{"an instant before the second base backup", whole, driver.RecoveryTarget{Time: at(20)}, "first", 2, ""},
		{"an instant after it", whole, driver.RecoveryTarget{Time: at(33)}, "second", 1, ""},
		{"the instant of a beacon is not proven by it", whole, driver.RecoveryTarget{Time: at(35)}, "second", 2, ""},
		{"the end", whole, driver.RecoveryTarget{Latest: true}, "second", 2, ""},
		{"a position in the first piece", whole, driver.RecoveryTarget{Position: "0/3000200"}, "first", 1, ""},
		{"before every base backup", whole, driver.RecoveryTarget{Time: at(9)}, "", 0, "no base backup of orders was complete by"},
		{"behind the end", whole, driver.RecoveryTarget{Time: at(40)}, "", 0, "its log is kept up to 0/6000900, which is 2026-01-01T00:00:40Z"},
		{"before a gap", gap, driver.RecoveryTarget{Time: at(14)}, "first", 1, ""},
		{"across a gap", gap, driver.RecoveryTarget{Time: at(20)}, "", 0, "its log lacks what lies from 0/3000400 to 0/3000500, written between 2026-01-01T00:00:15Z and 2026-01-01T00:00:25Z"},
		{"from a base backup behind the gap", gap, driver.RecoveryTarget{Time: at(33)}, "second", 1, ""},
		{"another timeline", turned, driver.RecoveryTarget{Time: at(49)}, "first", 3, ""},
		{"another database", []driver.LogPiece{{System: "2", Timeline: 1, From: 0x2000000, To: 0x9000000, Beacon: dr.Beacon{Time: at(60)}}}, driver.RecoveryTarget{Time: at(50)}, "", 0, "kept up to"},
	} {
		copies := []dr.DataPoint{first, second}
		if c.name == "another timeline" {
			copies = copies[:1]
		}
		r, err := choose(driver.RestoreRequest{Datastore: dr.Datastore{Name: "orders"}, Data: copies[len(copies)-1], Copies: copies, Target: c.target}, kept{c.pieces, histories})
		switch {
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: got error %v, want one with %q", c.name, err, c.want)
		case c.want == "" && (err != nil || r.base.Snapshot != c.base || len(r.pieces) != c.parts):
			t.Errorf("%s: got base %s, %d pieces %+v, %v, want base %s, %d pieces", c.name, r.base.Snapshot, len(r.pieces), r.pieces, err, c.base, c.parts)
		}
		for i, p := range r.pieces {
			if c.want == "" && i > 0 && p.from != r.pieces[i-1].to {
				t.Errorf("%s: piece %d begins at %s, and the one before ends at %s", c.name, i, p.from, r.pieces[i-1].to)
			}
		}
	}
}

func TestClaimOf(t *testing.T) {
	t.Parallel()
	pod := &corev1.Pod{Spec: corev1.PodSpec{
		Volumes: []corev1.Volume{
			{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data-0"}}},
			{Name: "other", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "other-0"}}},
			{Name: "tmp", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		},
		Containers: []corev1.Container{{Env: []corev1.EnvVar{{Name: "PGDATA", Value: "/pg/data/main"}}, VolumeMounts: []corev1.VolumeMount{
			{Name: "other", MountPath: "/pg"}, {Name: "data", MountPath: "/pg/data", SubPath: "sub"}, {Name: "tmp", MountPath: "/tmp"}}}},
	}}
	for _, c := range []struct {
		ref                     dr.PostgresRef
		directory, claim, below string
	}{
		{dr.PostgresRef{}, "/pg/data/main", "data-0", "sub/main"},
		{dr.PostgresRef{}, "", "data-0", "sub/main"},
		{dr.PostgresRef{}, "/pg/database", "other-0", "database"},
		{dr.PostgresRef{}, "/pg", "other-0", ""},
		{dr.PostgresRef{}, "/tmp/x", "", ""},
		{dr.PostgresRef{}, "/elsewhere", "", ""},
		{dr.PostgresRef{Claim: "said", Directory: "here"}, "/elsewhere", "said", "here"},
	} {
		claim, below, err := claimOf(&c.ref, pod, c.directory)
		if claim != c.claim || below != c.below || (err == nil) != (c.claim != "") {
			t.Errorf("%+v, %q: got %q, %q, %v, want %q, %q", c.ref, c.directory, claim, below, err, c.claim, c.below)
		}
	}
}

func TestCredentials(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		data map[string]string
		tls  string
		want string // in the error
	}{
		{map[string]string{"username": "u\n", "password": "p w\n"}, "prefer", ""},
		{map[string]string{"username": "u", "sslmode": "require"}, "require", ""},
		{map[string]string{"password": "p"}, "", `no key "username"`},
		{map[string]string{"username": "u", "sslmode": "allow"}, "", `sslmode "allow" is none of`},
		{map[string]string{"username": "u", "ca.crt": "nonsense"}, "", `needs certificates in key "ca.crt"`},
	} {
		data := map[string][]byte{}
		for k, v := range c.data {
			data[k] = []byte(v)
		}
		got, err := readCredentials(data)
		switch {
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%v: got error %v, want one with %q", c.data, err, c.want)
		case c.want == "" && (err != nil || got.TLS != c.tls || got.User != "u" || got.Database != "postgres" || strings.HasSuffix(got.Password, "\n")):
			t.Errorf("%v: got %+v, %v", c.data, got, err)
		}
	}
}

// TestWhatPasses: a server that starts, recovers or ends is one that is waited for.
func TestWhatPasses(t *testing.T) {
	t.Parallel()
	for code, want := range map[string]dr.Class{"57P01": dr.ClassUnreachable, "57P02": dr.ClassUnreachable, "57P03": dr.ClassUnreachable,
		"28P01": dr.ClassDenied, "53300": dr.ClassBlocked, "XX000": dr.ClassInternal} {
		err := (&Server{}).failed(fmt.Errorf("connect: %w", &pgconn.PgError{Code: code}), "cannot connect")
		if dr.ClassOf(err) != want {
			t.Errorf("%s: got class %s, want %s", code, dr.ClassOf(err), want)
		}
	}
}

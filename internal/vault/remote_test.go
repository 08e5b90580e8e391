package vault

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/vault/blob"
	"lifeboat.dev/lifeboat/internal/vault/blob/blobtest"
	"lifeboat.dev/lifeboat/internal/vault/repo"
)

// initVault makes a vault at a server's location.
func initVault(t *testing.T, location, credentials string) dr.Vault {
	t.Helper()
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, testKey, 0o600); err != nil {
		t.Fatal(err)
	}
	in := dr.Vault{Name: "main", Location: location, Credentials: dr.KeySource{File: credentials}, EncryptionKey: dr.KeySource{File: key}}
	if err := Init(t.Context(), in, testKey, func(f string, a ...any) { t.Logf(f, a...) }); err != nil {
		t.Fatal(err)
	}
	wantDR(t, Init(t.Context(), in, testKey, nil), dr.ClassConflict, dr.ErrExists, location)
	return in
}

// life is what a vault goes through: directories are backed up, leases are taken, many race for a record.
func life(t *testing.T, in dr.Vault) {
	t.Helper()
	v := openVault(t, in)
	dir := t.TempDir()
	for i := range 40 {
		path := filepath.Join(dir, fmt.Sprintf("d%d", i%4), fmt.Sprintf("f%d", i))
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(strings.Repeat(fmt.Sprint(i), 5000*i)), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	saver, err := v.Repo().NewSaver(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	saved, err := saver.SaveDir(t.Context(), dir, repo.SaveDirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	snap, err := saver.SaveSnapshot(t.Context(), repo.Snapshot{Tree: saved.Tree, Paths: []string{"/contents"}})
	if err := errors.Join(err, saver.Close(t.Context())); err != nil {
		t.Fatal(err)
	}
	p := protect(t, v, "shop", "p1", documents(50, "doc"))
	p.ID, p.Data = "p2", []dr.DataPoint{{Datastore: "orders", Snapshot: snap.String()}}
	if err := v.PutPoint(t.Context(), p); err != nil {
		t.Fatal(err)
	}

	// Twenty processes want the lease; one at a time has it, and each raises the epoch by one.
	if _, err := v.PutOwnership(t.Context(), dr.Ownership{Application: "shop", Site: "east", Epoch: 1}, ""); err != nil {
		t.Fatal(err)
	}
	const contenders = 20
	var holding atomic.Int32
	var wg sync.WaitGroup
	for i := range contenders {
		wg.Go(func() {
			mine := openVault(t, in)
			_, lease, err := mine.AcquireLease(t.Context(), LeaseRequest{Application: "shop", Holder: fmt.Sprintf("run%d/x", i), Duration: 2 * time.Minute, Wait: true})
			if err != nil {
				t.Error(err)
				return
			}
			if n := holding.Add(1); n != 1 {
				t.Errorf("%d hold the lease", n)
			}
			if _, err := lease.Claim(t.Context(), "west", fmt.Sprintf("run%d", i), ""); err != nil {
				t.Error(err)
			}
			holding.Add(-1)
			if err := lease.Release(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	again := openVault(t, in)
	if o, _, err := again.Ownership(t.Context(), "shop"); err != nil || o.Epoch != 1+contenders || o.Lease != nil {
		t.Errorf("%+v, %v", o, err)
	}
	if got := intact(t, again, "shop"); got != 2 {
		t.Errorf("%d points", got)
	}
	target := t.TempDir()
	if _, err := again.Repo().RestoreDir(t.Context(), saved.Tree, target, repo.RestoreDirOptions{}); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "diff", "-r", dir, target).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestVaultOnObjectStorage lets a whole vault live on S3, with the stock restic as the judge, on a bucket
// under object lock, and on Azure, each with a replica at the next.
func TestVaultOnObjectStorage(t *testing.T) {
	t.Parallel()
	s3, azure := blobtest.S3(t, []string{"vault"}), blobtest.Azure(t)
	azure.MakeContainer(t, "vault")
	t.Run("s3", func(t *testing.T) {
		t.Parallel()
		in := initVault(t, s3.At("vault", "east/main"), s3.CredentialsFile)
		life(t, in)
		restic(t, in, "s3:"+s3.Endpoint+"/vault/east/main/repo")
		in.Replicas = []dr.Replica{{Name: "azure", Location: azure.At("vault", "replica"), Credentials: dr.KeySource{File: azure.CredentialsFile}}}
		inStep(t, openVault(t, in), in)
		if got := intact(t, openVault(t, in.At(in.Replicas[0])), "shop"); got != 2 {
			t.Errorf("%d points in the replica", got)
		}
	})
	t.Run("azure", func(t *testing.T) {
		t.Parallel()
		in := initVault(t, azure.At("vault", "main"), azure.CredentialsFile)
		life(t, in)
		in.Replicas = []dr.Replica{{Name: "s3", Location: s3.At("vault", "replica"), Credentials: dr.KeySource{File: s3.CredentialsFile}}}
		inStep(t, openVault(t, in), in)
		restic(t, in, "s3:"+s3.Endpoint+"/vault/replica/repo")
		if lags := ReplicasOf(openVault(t, in), in).Lags(t.Context()); lags[0].Error != "" || lags[0].Missing != 0 {
			t.Errorf("lag %+v", lags)
		}
	})
}

// restic lets the stock program read every byte over its own client.
func restic(t *testing.T, in dr.Vault, location string) {
	t.Helper()
	program, err := exec.LookPath("restic")
	if err != nil {
		if os.Getenv("LIFEBOAT_CI") != "" {
			t.Fatal("restic is not installed: run scripts/setup.sh")
		}
		t.Log("restic is not installed, so it cannot judge: run scripts/setup.sh")
		return
	}
	c := exec.CommandContext(t.Context(), program, "-r", location, "--password-file", in.EncryptionKey.File, "--no-cache", "check", "--read-data")
	c.Env = append(os.Environ(), "AWS_ACCESS_KEY_ID="+blobtest.S3Access, "AWS_SECRET_ACCESS_KEY="+blobtest.S3Secret)
	out, err := c.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "no errors were found") {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestVaultUnderObjectLock: every object is locked for days, and nothing that a vault does needs a delete.
func TestVaultUnderObjectLock(t *testing.T) {
	t.Parallel()
	versions := filepath.Join(t.TempDir(), "versions")
	if err := os.Mkdir(versions, 0o755); err != nil {
		t.Fatal(err)
	}
	server := blobtest.S3(t, nil, "--versioning-dir", versions)
	server.MakeBucket(t, "vault", true)
	compliance, days, unit := minio.Compliance, uint(1), minio.Days
	if err := server.Client(t).SetBucketObjectLockConfig(t.Context(), "vault", &compliance, &days, &unit); err != nil {
		t.Fatal(err)
	}
	life(t, initVault(t, server.At("vault", "locked"), server.CredentialsFile))
}

// TestVaultWhoseObjectsStay: where every delete is refused, as in an immutable container, a vault is made,
// written, read and copied all the same.
func TestVaultWhoseObjectsStay(t *testing.T) {
	t.Parallel()
	store := keeping{blob.NewMem()}
	if err := initStore(t.Context(), store, testKey); err != nil {
		t.Fatal(err)
	}
	v := openAgain(t, store)
	for i := range 3 {
		protect(t, v, "shop", fmt.Sprint(i), documents(10, fmt.Sprint(i)))
	}
	to := keeping{blob.NewMem()}
	copied(t, v, to)
	if got := intact(t, openAgain(t, to), "shop"); got != 3 {
		t.Errorf("%d points", got)
	}
}

// TestStorageErrorsForPeople: what a storage says reaches a person with a class and a next step.
func TestStorageErrorsForPeople(t *testing.T) {
	t.Parallel()
	server := blobtest.S3(t, []string{"vault"})
	in := dr.Vault{Name: "main", Location: server.At("absent", ""), Credentials: dr.KeySource{File: server.CredentialsFile}}
	wantDR(t, Init(t.Context(), in, testKey, nil), dr.ClassUsage, blob.ErrNoBucket, "absent", "Create it")
	in.Location = server.At("vault", "")
	in.Credentials.File = "/absent"
	wantDR(t, Init(t.Context(), in, testKey, nil), dr.ClassDenied, blob.ErrCredentials, "/absent")
	in.Location = blobtest.S3Location(blobtest.Closed(t), "vault", "")
	in.Credentials.File = server.CredentialsFile
	wantDR(t, Init(t.Context(), in, testKey, nil), dr.ClassUnreachable, blob.ErrUnreachable, "refused", "--replica")
}

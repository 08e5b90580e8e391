package vault

import (
	"context"
	"errors"
	"iter"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/vault/blob"
)

// openPlace opens the store of a vault.
func openPlace(ctx context.Context, v dr.Vault, warn func(format string, args ...any)) (blob.Store, error) {
	store, err := blob.Open(ctx, v.Location, options(v, warn))
	if err != nil {
		return nil, unopened(v.Location, err)
	}
	if v.ReadOnly {
		return readOnly{store}, nil
	}
	return store, nil
}

// options are what a vault's storage is opened with.
func options(v dr.Vault, warn func(format string, args ...any)) blob.Options {
	return blob.Options{CredentialsFile: v.Credentials.File, CAFile: v.CAFile, Warn: warn}
}

// remedies say what class an error of a storage has and what a person does about it.
func remedies() []struct {
	kind  error
	class dr.Class
	next  string
} {
	return []struct {
		kind  error
		class dr.Class
		next  string
	}{
		{blob.ErrScheme, dr.ClassUsage, "Give a location of the form file:///absolute/path, s3://bucket/prefix or azblob://account/container/prefix."},
		{blob.ErrNotDirectory, dr.ClassUsage, "Give the path of a directory."},
		{blob.ErrExpired, dr.ClassDenied, "Renew the credentials of the vault's storage, then run the command again."},
		{blob.ErrCredentials, dr.ClassDenied, "Give credentials in the environment, or name a file that holds them with credentials: {file: …} of the vault in the fleet file."},
		{blob.ErrClock, dr.ClassDenied, "Set this machine's clock, for example with: chronyc makestep"},
		{blob.ErrRegion, dr.ClassUsage, "Add the bucket's region to the vault's location: ?region=…"},
		{blob.ErrNoBucket, dr.ClassUsage, "Create it, with encryption and without public access, or correct the vault's location."},
		{blob.ErrTLS, dr.ClassUnreachable, "Name the CA that signed the endpoint's certificate with caFile of the vault, or correct the endpoint."},
		{blob.ErrConditions, dr.ClassBlocked, "Use a storage that has conditional writes, such as Amazon S3 or Azure Blob: who owns an application rests on them."},
		{blob.ErrRetained, dr.ClassBlocked, "Wait until its retention is over. For the vault itself choose a bucket that keeps versions: one in which nothing can be replaced cannot hold it."},
		{blob.ErrUncertain, dr.ClassConflict, "Look at the state with 'lifeboat status', then run the command again."},
		{errReadOnly, dr.ClassBlocked, "Use the vault's own location; if that is lost for good: lifeboat vault promote REPLICA --break-glass REASON"},
		{blob.ErrUnreachable, dr.ClassUnreachable, "Check the endpoint and the network; where the vault has a replica, reading commands take --replica NAME."},
	}
}

// remedy finds the class and the next step of a storage's error.
func remedy(err error) (class dr.Class, next string, known bool) {
	for _, r := range remedies() {
		if errors.Is(err, r.kind) {
			return r.class, r.next, true
		}
	}
	return "", "", false
}

// errReadOnly: a replica was opened in the place of the vault.
var errReadOnly = errors.New("a replica is only read")

// readOnly refuses every change, so that nobody acts on the word of a replica.
type readOnly struct{ store blob.Store }

// Put implements blob.Store.
func (readOnly) Put(context.Context, string, []byte, blob.Condition) (blob.Version, error) {
	return "", errReadOnly
}

// Delete implements blob.Store.
func (readOnly) Delete(context.Context, string) error { return errReadOnly }

// Get implements blob.Store.
func (r readOnly) Get(ctx context.Context, name string, part blob.Range) (blob.Object, error) {
	return r.store.Get(ctx, name, part)
}

// Stat implements blob.Store.
func (r readOnly) Stat(ctx context.Context, name string) (blob.Info, error) {
	return r.store.Stat(ctx, name)
}

// List implements blob.Store.
func (r readOnly) List(ctx context.Context, prefix string) iter.Seq2[blob.Info, error] {
	return r.store.List(ctx, prefix)
}

// Location implements blob.Store.
func (r readOnly) Location() string { return r.store.Location() }

package vault

import "lifeboat.dev/lifeboat/internal/vault/blob"

// RepoStore is the repository's part of the vault's store, for a mover that reaches the vault through this
// process.
func (v *Vault) RepoStore() blob.Store { return blob.Sub(v.store, repoPrefix) }

package vault

import (
	"context"
	"fmt"
	"time"

	"lifeboat.dev/lifeboat/internal/vault/blob"
)

// keeping refuses every delete.
type keeping struct{ blob.Store }

func (k keeping) Delete(_ context.Context, name string) error {
	return fmt.Errorf("delete %s: %w", name, &blob.RetainedError{Until: time.Now().Add(24 * time.Hour)})
}

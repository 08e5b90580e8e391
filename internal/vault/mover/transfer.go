package mover

import (
	"context"

	"lifeboat.dev/lifeboat/internal/driver"
	"lifeboat.dev/lifeboat/internal/vault/repo"
)

func save(ctx context.Context, r *repo.Repo, path string, o driver.MoverOrder, count func(driver.Progress)) (driver.MoverReport, error) {
	panic("not yet")
}

func load(ctx context.Context, r *repo.Repo, path string, o driver.MoverOrder, count func(driver.Progress)) (driver.MoverReport, error) {
	panic("not yet")
}

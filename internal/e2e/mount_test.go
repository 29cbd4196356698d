package e2e

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// mounted makes a folder that is a file system of its own. It is gone at the
// end of the test, after every Caddy that is made later.
func mounted(t *testing.T, mount func(dir string) error) (dir string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("left out: only root can mount a file system")
	}
	dir = t.TempDir()
	if err := mount(dir); err != nil {
		t.Skipf("left out: a file system can't be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("unmounting: %v", err)
			_ = syscall.Unmount(dir, syscall.MNT_DETACH)
		}
	})
	return dir
}

// smallDisk makes a folder that holds a few files only.
func smallDisk(t *testing.T) (dir string) {
	t.Helper()
	return mounted(t, func(dir string) error {
		return syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=256k,mode=0700")
	})
}

// fill takes all that is left on the disk, until it is given back.
func fill(t *testing.T, dir string) (giveBack func()) {
	t.Helper()
	f := must(os.Create(filepath.Join(dir, "filler")))
	defer f.Close()
	for size := 4096; size > 0; size /= 2 {
		for {
			if _, err := f.Write(make([]byte, size)); errors.Is(err, syscall.ENOSPC) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
	}
	return func() {
		if err := os.Remove(f.Name()); err != nil {
			t.Fatal(err)
		}
	}
}

// freezable makes a folder on a file system that can be frozen: what writes to
// it then hangs, as on a storage that is far away, and what reads goes on.
func freezable(t *testing.T) (dir string) {
	t.Helper()
	image := filepath.Join(t.TempDir(), "image")
	return mounted(t, func(dir string) error {
		if err := os.WriteFile(image, nil, 0o600); err != nil {
			return err
		}
		if err := os.Truncate(image, 8<<20); err != nil {
			return err
		}
		if out, err := exec.Command("mkfs.ext4", "-q", image).CombinedOutput(); err != nil {
			return errors.New("mkfs.ext4: " + err.Error() + " " + string(out))
		}
		out, err := exec.Command("mount", "-o", "loop", image, dir).CombinedOutput()
		if err != nil {
			return errors.New("mount: " + err.Error() + " " + string(out))
		}
		return nil
	})
}

// The requests of ioctl that freeze a file system and thaw it, as in
// linux/fs.h.
const (
	freezeFS = 0xc0045877
	thawFS   = 0xc0045878
)

// freeze holds up all writes until it is ended, or the test is: a process that
// hangs in a write can't even be killed.
func freeze(t *testing.T, dir string) (thaw func()) {
	t.Helper()
	folder := must(os.Open(dir))
	frozen := true
	thaw = func() {
		if !frozen {
			return
		}
		frozen = false
		if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, folder.Fd(), thawFS, 0); errno != 0 {
			t.Errorf("thawing: %v", errno)
		}
		_ = folder.Close()
	}
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, folder.Fd(), freezeFS, 0); errno != 0 {
		frozen = false
		_ = folder.Close()
		t.Skipf("left out: the file system can't be frozen: %v", errno)
	}
	t.Cleanup(thaw)
	return thaw
}

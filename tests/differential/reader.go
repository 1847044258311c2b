// Unpacks a tar with Go's archive/tar, compressed by gzip or not: reader ARCHIVE DIRECTORY. Exit code 1 where the reader complains.
// Names are taken as they are; one with a component ".." ends the run with exit code 1.
package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
)

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func place(top, name string) string {
	for _, part := range strings.Split(name, "/") {
		if part == ".." {
			fail(fmt.Errorf("%q climbs", name))
		}
	}
	return filepath.Join(top, path.Clean("/"+name))
}

func unpack(reader *tar.Reader, top string) error {
	for {
		header, err := reader.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if header.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		to := place(top, header.Name)
		if to == filepath.Clean(top) && header.Typeflag != tar.TypeDir {
			return fmt.Errorf("the root is no directory")
		}
		os.MkdirAll(filepath.Dir(to), 0o755)
		mode := os.FileMode(header.Mode & 0o777)
		switch header.Typeflag {
		case tar.TypeDir:
			if err := os.MkdirAll(to, 0o755); err != nil {
				return err
			}
		case tar.TypeReg, tar.TypeRegA, tar.TypeCont, tar.TypeGNUSparse:
			os.Remove(to)
			file, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
			if err != nil {
				return err
			}
			if _, err := io.Copy(file, reader); err != nil {
				return err
			}
			file.Close()
		case tar.TypeSymlink:
			os.Remove(to)
			if err := os.Symlink(header.Linkname, to); err != nil {
				return err
			}
		case tar.TypeLink:
			os.Remove(to)
			if err := os.Link(place(top, header.Linkname), to); err != nil {
				return err
			}
		default:
			return fmt.Errorf("type %q of %q", header.Typeflag, header.Name)
		}
	}
}

func main() {
	data, err := os.ReadFile(os.Args[1])
	if err != nil {
		fail(err)
	}
	var stream io.Reader = bytes.NewReader(data)
	if bytes.HasPrefix(data, []byte{0x1f, 0x8b}) {
		if stream, err = gzip.NewReader(stream); err != nil {
			fail(err)
		}
	}
	if err := unpack(tar.NewReader(stream), os.Args[2]); err != nil {
		fail(err)
	}
}

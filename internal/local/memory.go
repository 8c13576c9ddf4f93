package local

import (
	"bytes"
	"io/fs"
	"path"
	"strconv"
	"strings"
)

// linuxMemory reads from root, a Linux file system, how many bytes a process
// may take: what the kernel deems available, or less if a control group
// (version 2) of the process has less left. 0: unknown.
func linuxMemory(root fs.FS) int64 {
	info, _ := fs.ReadFile(root, "proc/meminfo")
	free := field(info, "MemAvailable:") * 1024
	const mount = "sys/fs/cgroup"
	groups, _ := fs.ReadFile(root, "proc/self/cgroup")
	for line := range bytes.Lines(groups) {
		at, ok := bytes.CutPrefix(bytes.TrimSpace(line), []byte("0::/"))
		if !ok {
			continue
		}
		// The path begins with ".." for a process outside of its namespace.
		for dir := path.Join(mount, path.Join("/", string(at))); strings.HasPrefix(dir, mount); dir = path.Dir(dir) {
			most, err := number(root, dir+"/memory.max")
			used, err2 := number(root, dir+"/memory.current")
			if err != nil || err2 != nil {
				continue // no limit, which reads "max", or no such file
			}
			stat, _ := fs.ReadFile(root, dir+"/memory.stat")
			// Pages of files that nobody looks at go when memory is wanted.
			left := max(1, most-used+field(stat, "inactive_file"))
			if free == 0 || left < free {
				free = left
			}
		}
	}
	return free
}

// field is the number after name at the beginning of a line, 0 if there is none.
func field(text []byte, name string) int64 {
	for line := range bytes.Lines(text) {
		if w := bytes.Fields(line); len(w) >= 2 && string(w[0]) == name {
			n, _ := strconv.ParseInt(string(w[1]), 10, 64)
			return n
		}
	}
	return 0
}

func number(root fs.FS, name string) (int64, error) {
	b, err := fs.ReadFile(root, name)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(string(bytes.TrimSpace(b)), 10, 64)
}

"""ext4 in user space. Users of a new file system need ``writer.Writer`` alone; the format's parts have a module each."""

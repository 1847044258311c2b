"""A whole machine, made by ``vagrant up`` as a user would: its kernel, udev, systemd, Git, reboots and power cuts."""

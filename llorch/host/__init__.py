"""This machine: processes, devices, SSH, downloads, and the frozen file's runtimes."""

"""The package in a booted Debian: `inside` is the program that packaging/test-install copies into the machine."""

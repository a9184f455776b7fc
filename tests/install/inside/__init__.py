"""What packaging/test-install runs in a booted Debian: stages of steps, each of which prints one line.

Stdlib only, and nothing of the checkout: what is tested is the installed package.
"""

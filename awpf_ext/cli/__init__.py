"""The `awpf` command: one file per subcommand, and what they share.

main.py is the entry point. It works without typer: `awpf doctor` is environment.py, which needs
only torch, and for all else a missing package is named. commands.py adds the subcommands to app.py.
"""

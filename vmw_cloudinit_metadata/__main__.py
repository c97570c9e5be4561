"""The program's entry point: `python -m vmw_cloudinit_metadata`."""

from vmw_cloudinit_metadata.cli import main

if __name__ == "__main__":
    main()

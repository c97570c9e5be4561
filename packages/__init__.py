"""Build what is released: wheel, deb, rpm, image, SBOM. docs/development.md says how."""

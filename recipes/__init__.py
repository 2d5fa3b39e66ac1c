"""The paper's rows and the demo, one TOML file each."""

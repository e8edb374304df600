"""llorch-pool: this host's models and workers. State lives in files; nothing stays running but the workers."""

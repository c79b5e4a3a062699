"""What a run changes: adapters, by losses and optimizer steps, and their memory."""

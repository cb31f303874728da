"""What tests share: engines, worlds, clocks."""

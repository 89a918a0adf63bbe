"""Train, validate and test: `python train.py fit --config configs/anomaly/ear_cpu.yaml …`."""

from vision.cli import train

if __name__ == "__main__":
    raise SystemExit(train())

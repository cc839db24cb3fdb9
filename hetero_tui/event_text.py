"""Events in words, for the list of events."""

from __future__ import annotations

from trainer.events import Calibrated, Checkpoint, Done, Epoch, Event, Hello, Joined, Membership, Notice


def describe(event: Event) -> tuple[str, str, int | None]:
    """Return (level, text, step) of an event for the list of events."""
    match event:
        case Notice():
            return event.level, event.text, event.step
        case Hello():
            name = f" ({event.device_name})" if event.device_name else ""
            text = f"up on {event.device}{name}, torch {event.torch_version or '?'}, process {event.process_id}"
            return "info", text + (", speed is simulated" if event.simulated else ""), None
        case Joined():
            return "info", f"joined a group of {event.world_size} in {event.seconds:.1f} s", None
        case Calibrated():
            return "info", f"measured {event.samples_per_second:.0f} samples/s on its own", None
        case Epoch():
            accuracy = "" if event.accuracy is None else f", accuracy {100 * event.accuracy:.1f} %"
            pace = f"{event.samples} samples in {event.seconds:.1f} s"
            return "info", f"epoch {event.epoch + 1} ended: {pace}, loss {event.loss:.4f}{accuracy}", None
        case Checkpoint():
            reason = f": {event.reason}" if event.reason else ""
            level = "warning" if event.action == "refused" else "info"
            return level, f"{event.action} {event.path}{reason}", event.step
        case Membership():
            text = f"group of {len(event.members)} (generation {event.generation})"
            text += f", left: {_numbers(event.left)}" if event.left else ""
            text += f", joined: {_numbers(event.joined)}" if event.joined else ""
            text += f", pause {event.pause:.2f} s" + (f": {event.reason}" if event.reason else "")
            return ("warning" if event.left else "info"), text, None
        case Done():
            after = f"{event.state} after {event.steps} steps, {event.seconds:.1f} s"
            if event.state == "left":
                return "warning", f"{after}: terminated from outside, the others go on", None
            return "info", after, None
        case _:
            return "info", event.kind, None


def _numbers(ranks: tuple[int, ...]) -> str:
    return ", ".join(str(rank) for rank in ranks[:16]) + (", …" if len(ranks) > 16 else "")

"""What runs in a worker process: reads one request, does it, answers in JSON lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cnnbench.doctor import examine
from cnnbench.errors import CnnbenchError
from cnnbench.execute import execute
from cnnbench.job import Answer, Progress, Refusal, decode_request, encode
from cnnbench.measure.collect import collect_environment
from cnnbench.predict import forecast
from cnnbench.preflight import computes, equal_gpus, equal_width, find_device, peaks, preflight

if TYPE_CHECKING:
    from collections.abc import Callable


def serve(  # noqa: C901 (a branch for each kind of request, and each is one call)
    line: bytes, send: Callable[[bytes], None], receive: Callable[[], bytes] = lambda: b""
) -> None:
    """Do what the request in `line` asks.

    Args:
        line: the request.
        send: takes each answer, the last one being the result.
        receive: waits for the line that gives this worker its turn.
    """

    def report(progress: Progress) -> None:
        send(encode(Answer(progress=progress)))

    def wait_turn() -> None:
        send(encode(Answer(turn=True)))
        receive()

    request = decode_request(line)
    try:
        if request.look is not None:
            send(encode(Answer(environment=collect_environment(find_device(request.look)))))
        elif request.gpus is not None:
            send(encode(Answer(gpus=equal_gpus(request.gpus))))
        elif request.pulse is not None:
            send(encode(Answer(pulse=computes(request.pulse))))
        elif request.preflight is not None:
            send(encode(Answer(ready=preflight(request.preflight, report))))
        elif request.peaks is not None:
            send(encode(Answer(peaks=peaks(request.peaks))))
        elif request.equal_width is not None:
            send(encode(Answer(width=equal_width(request.equal_width))))
        elif request.examination is not None:
            send(encode(Answer(findings=examine(request.examination))))
        elif request.forecast is not None:
            send(encode(Answer(outlooks=forecast(request.forecast))))
        elif request.cell is not None:
            send(encode(Answer(record=execute(request.cell, report, wait_turn))))
    except CnnbenchError as error:
        refusal = Refusal(error=type(error).__name__, message=str(error))
        send(encode(Answer(refusal=refusal)))

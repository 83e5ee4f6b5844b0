"""Requests as they come over the wire, and errors as OpenAI words them."""

import hmac
import json
import re
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException

from imagen_video.safety import Refused

FORM = "multipart/form-data"
FIELD = re.compile(r"\[([^\[\]]*)\]")
KINDS = {401: "authentication_error", 429: "rate_limit_error"}


def body(kind: type[BaseModel], *types: str, file: bool = False) -> dict[str, Any]:
    """The schema of a body that is read by hand, so that a stranger's is not read at all."""
    whole = kind.model_json_schema()
    schema = _inlined(whole, whole.pop("$defs", {}))
    if file:
        schema["properties"]["video"] = {"type": "string", "format": "binary"}
        schema["required"] = ["video"]
    return {"requestBody": {"required": True, "content": {t: {"schema": schema} for t in types}}}


def _inlined(schema: Any, parts: dict[str, Any]) -> Any:
    """The schema with each reference replaced by what it names."""
    if isinstance(schema, list):
        return [_inlined(part, parts) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(parts[schema["$ref"].rpartition("/")[2]], parts)
    return {name: _inlined(part, parts) for name, part in schema.items()}


async def read_body(request: Request) -> dict[str, Any]:
    """The fields of a JSON object or of a form; 400 for anything else."""
    kind = request.headers.get("content-type", "")
    if kind.startswith((FORM, "application/x-www-form-urlencoded")):
        return nested(list((await request.form(max_files=1, max_fields=100)).multi_items()))
    try:
        fields = json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, "the body must be a JSON object or a multipart form") from error
    if not isinstance(fields, dict):
        raise HTTPException(400, "the body must be a JSON object or a multipart form")
    return fields


def nested(items: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Form fields as an object: clients write stages[base][steps]=8, and a list as name[] twice."""
    fields: dict[str, Any] = {}
    for name, value in items:
        first, *path = [name.partition("[")[0], *FIELD.findall(name)]
        if path == [""]:
            fields.setdefault(first, [])
            if isinstance(fields[first], list):
                fields[first].append(value)
            continue
        place = fields
        for part in [first, *path][:-1]:
            place = place.setdefault(part, {}) if isinstance(place, dict) else {}
        if isinstance(place, dict):
            place[[first, *path][-1]] = value
    return fields


def idempotency_key(request: Request) -> str | None:
    """A client that asks again after a lost answer gives the same key and gets the same job."""
    key = request.headers.get("idempotency-key")
    if key is not None and not 1 <= len(key) <= 200:
        raise HTTPException(400, "an Idempotency-Key has 1 to 200 characters")
    return key


def is_key(said: str, keys: Sequence[str]) -> bool:
    """Whether this is one of the keys; every one is compared, each in constant time."""
    given = said.encode(errors="surrogatepass")
    return any([hmac.compare_digest(given, key.encode()) for key in keys])


def add_errors(app: FastAPI) -> None:
    """Every error as OpenAI words it: {"error": {"message", "type", "param", "code"}}."""

    @app.exception_handler(StarletteHTTPException)
    def plain(_: Request, error: StarletteHTTPException) -> JSONResponse:
        return answer(error.status_code, str(error.detail), headers=error.headers)

    @app.exception_handler(Refused)
    def refused(_: Request, error: Refused) -> JSONResponse:
        return answer(400, refused_in_words(error), "prompt", code=error.refusal.category)

    @app.exception_handler(RequestValidationError)
    def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return answer(400, *first_fault(error.errors()))

    @app.exception_handler(ValidationError)
    def malformed(_: Request, error: ValidationError) -> JSONResponse:
        return answer(400, *first_fault(error.errors(include_url=False)))


def answer(
    status: int, message: str, param: str | None = None, *, code: str | None = None, **more: Any
) -> JSONResponse:
    """An error."""
    kind = KINDS.get(status, "invalid_request_error")
    fault = {"message": message, "type": kind, "param": param, "code": code}
    return JSONResponse({"error": fault}, status, **more)


def refused_in_words(error: Refused) -> str:
    """For who asked; never with the prompt."""
    return f"the prompt is refused ({error.refusal.category}): {error.refusal.reason}"


def first_fault(faults: Sequence[Any]) -> tuple[str, str]:
    """What is wrong and where; what came is not repeated, for it may be anything."""
    where = ".".join(str(part) for part in faults[0]["loc"] if part not in ("body", "query"))
    return f"{where}: {faults[0]['msg']}", where

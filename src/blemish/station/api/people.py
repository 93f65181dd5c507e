"""Signing in, accounts and tokens."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints

from blemish.station.api.answers import refusals
from blemish.station.api.guards import COOKIE, Looking, Managing, TheStation, check_origin
from blemish.station.errors import Code
from blemish.station.people import LONGEST_PASSWORD, SIGN_IN_HOURS, PersonRole, Role, Who

router = APIRouter(prefix="/api/v1", tags=["people"])

DISPLAY_DAYS = 400
"""Browsers keep no cookie for longer."""

Name = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$")]
NameInPath = Annotated[str, Path(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$")]
Password = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_PASSWORD)]


class _Wanted(BaseModel):
    model_config = ConfigDict(extra="forbid")


class SignInWanted(_Wanted):
    """Name and password."""

    name: Name
    password: Password


class DisplayWanted(_Wanted):
    """The token of a display, of the role viewer."""

    token: Annotated[SecretStr, Field(min_length=1, max_length=200)]


class AccountWanted(_Wanted):
    """A person who is to sign in."""

    name: Name
    role: PersonRole
    password: Password


class TokenWanted(_Wanted):
    """A machine that is to be let in."""

    name: Name
    role: Role = "machine"


class PasswordWanted(_Wanted):
    """A new password."""

    password: Password


class WhoShown(BaseModel):
    """Whoever asks. The name "local" is everyone, while there are no accounts."""

    name: str
    role: Role

    @classmethod
    def of(cls, who: Who) -> WhoShown:
        """As it is shown."""
        return cls(name=who.by, role=who.role)


class AccountShown(BaseModel):
    """A person who may sign in."""

    name: str
    role: Role
    added: datetime


class Accounts(BaseModel):
    """All of them, by name."""

    accounts: list[AccountShown]


class TokenShown(BaseModel):
    """A machine that is let in."""

    name: str
    role: Role
    added: datetime
    by: str


class Tokens(BaseModel):
    """All of them, by name."""

    tokens: list[TokenShown]


class NewToken(TokenShown):
    """A token, shown this once."""

    token: str


@router.post("/sign-in", responses=refusals(Code.SIGN_IN_FAILED, Code.TOO_MANY_SIGN_INS))
def sign_in(request: Request, response: Response, station: TheStation, wanted: SignInWanted) -> WhoShown:
    """Sign in; the answer sets a cookie that is good for twelve hours."""
    check_origin(request)
    address = request.client.host if request.client else "unknown"
    who, secret = station.people.sign_in(wanted.name, wanted.password, address)
    _set_cookie(request, response, secret, SIGN_IN_HOURS * 3600)
    return WhoShown.of(who)


@router.post("/sign-in/token", responses=refusals(Code.TOKEN_FAILED, Code.TOO_MANY_SIGN_INS))
def sign_in_display(request: Request, response: Response, station: TheStation, wanted: DisplayWanted) -> WhoShown:
    """Sign in a display on the wall; its cookie is good for as long as its token is."""
    check_origin(request)
    address = request.client.host if request.client else "unknown"
    who = station.people.sign_in_display(wanted.token.get_secret_value(), address)
    _set_cookie(request, response, wanted.token.get_secret_value(), DISPLAY_DAYS * 86_400)
    return WhoShown.of(who)


def _set_cookie(request: Request, response: Response, secret: str, seconds: int) -> None:
    response.set_cookie(
        COOKIE,
        secret,
        max_age=seconds,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )


@router.post("/sign-out", status_code=204, response_class=Response, responses=refusals())
def sign_out(request: Request, station: TheStation) -> Response:
    """Sign out; the cookie is worth nothing any more."""
    check_origin(request)
    cookie = request.cookies.get(COOKIE)
    if cookie is not None:
        station.people.sign_out(cookie)
    response = Response(status_code=204)
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return response


@router.get("/me", responses=refusals())
def me(who: Looking) -> WhoShown:
    """Who asks."""
    return WhoShown.of(who)


@router.get("/accounts", responses=refusals())
def accounts(station: TheStation, who: Managing) -> Accounts:
    """All accounts, by name."""
    return Accounts(
        accounts=[AccountShown.model_validate(row, from_attributes=True) for row in station.people.accounts()]
    )


@router.post("/accounts", status_code=201, responses=refusals(Code.NAME_TAKEN, Code.LAST_ADMIN))
def add_account(station: TheStation, who: Managing, wanted: AccountWanted) -> AccountShown:
    """Let a person sign in. With the first account, everyone has to; so it must be an admin's."""
    row = station.people.add_account(wanted.name, wanted.role, wanted.password, who.by)
    return AccountShown.model_validate(row, from_attributes=True)


@router.put("/accounts/{name}/password", status_code=204, responses=refusals(Code.NOT_FOUND))
def set_password(station: TheStation, who: Managing, name: NameInPath, wanted: PasswordWanted) -> None:
    """Give an account another password, and end its sign-ins."""
    station.people.set_password(name, wanted.password, who.by)


@router.delete("/accounts/{name}", status_code=204, responses=refusals(Code.NOT_FOUND, Code.LAST_ADMIN))
def remove_account(station: TheStation, who: Managing, name: NameInPath) -> None:
    """Take an account away, and end its sign-ins."""
    station.people.remove_account(name, who.by)


@router.get("/tokens", responses=refusals())
def tokens(station: TheStation, who: Managing) -> Tokens:
    """All tokens by name, but not what they are."""
    return Tokens(tokens=[TokenShown.model_validate(row, from_attributes=True) for row in station.people.tokens()])


@router.post("/tokens", status_code=201, responses=refusals(Code.NAME_TAKEN))
def add_token(station: TheStation, who: Managing, wanted: TokenWanted) -> NewToken:
    """Make a token for a machine. It is shown here and never again."""
    row, secret = station.people.add_token(wanted.name, wanted.role, who.by)
    shown = TokenShown.model_validate(row, from_attributes=True)
    return NewToken(**shown.model_dump(), token=secret)


@router.delete("/tokens/{name}", status_code=204, responses=refusals(Code.NOT_FOUND))
def remove_token(station: TheStation, who: Managing, name: NameInPath) -> None:
    """Make a token worthless."""
    station.people.remove_token(name, who.by)

"""Who may do what: accounts of people, tokens of machines, signing in."""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from typing import Final, Literal

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import delete, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from blemish.station.errors import Code, Complaint, FieldError, StationError
from blemish.station.inspections import audit_entry
from blemish.station.store import Store
from blemish.station.tables import Account, AuditEntry, SignIn, Token, now

PersonRole = Literal["viewer", "reviewer", "admin"]
Role = Literal["viewer", "machine", "reviewer", "admin"]

TOKEN_PREFIX = "blm_"
SIGN_IN_HOURS = 12
SHORTEST_PASSWORD = 10
LONGEST_PASSWORD = 200
"""Hashing takes the longer the longer it is."""
NAME = re.compile(r"[\w][\w.@\-]{0,99}")


class Right(Enum):
    """What can be allowed."""

    LOOK = "look"
    INSPECT = "inspect"
    REVIEW = "review"
    MANAGE = "manage"


RIGHTS: Final[dict[Role, frozenset[Right]]] = {
    "viewer": frozenset({Right.LOOK}),
    "machine": frozenset({Right.LOOK, Right.INSPECT}),
    "reviewer": frozenset({Right.LOOK, Right.INSPECT, Right.REVIEW}),
    "admin": frozenset(Right),
}


@dataclass(frozen=True)
class Who:
    """Whoever makes a request. by : as it stands in reviews and in the audit log."""

    by: str
    role: Role

    def may(self, right: Right) -> bool:
        """Whether the role allows it."""
        return right in RIGHTS[self.role]


LOCAL = Who("local", "admin")
"""Everyone, at a station that only its own machine can reach and that has no accounts."""


class Limiter:
    """Counts failures within a sliding window. Kept in memory, and bounded: the names that fail are anyone's to choose.

    Parameters
    ----------
    failures : within `seconds` that are still free.
    """

    def __init__(self, failures: int = 5, seconds: float = 60, remembered: int = 10_000) -> None:
        self.failures = failures
        self.seconds = seconds
        self.remembered = remembered
        self._times: OrderedDict[str, deque[float]] = OrderedDict()
        self._guard = threading.Lock()

    def check(self, *keys: str) -> None:
        """Raise if one of them has failed too often.

        Raises
        ------
        StationError
            too_many_sign_ins.
        """
        moment = time.monotonic()
        with self._guard:
            for key in keys:
                times = self._times.get(key, deque())
                while times and times[0] < moment - self.seconds:
                    times.popleft()
                if len(times) >= self.failures:
                    raise StationError(
                        Code.TOO_MANY_SIGN_INS,
                        "too many attempts to sign in have failed",
                        todo="Wait a minute and try again",
                        retry_after=int(times[0] + self.seconds - moment) + 1,
                    )

    def failed(self, *keys: str) -> None:
        """Count a failure for each."""
        with self._guard:
            for key in keys:
                self._times.setdefault(key, deque(maxlen=self.failures)).append(time.monotonic())
                self._times.move_to_end(key)
            while len(self._times) > self.remembered:
                self._times.popitem(last=False)


class People:
    """The accounts and tokens of a database.

    Parameters
    ----------
    station : as it stands in the audit log.
    open_without_accounts : whether everything is allowed while there is no account: on the loopback interface only.
    """

    def __init__(self, store: Store, station: str, *, open_without_accounts: bool) -> None:
        self.store = store
        self.station = station
        self.open_without_accounts = open_without_accounts
        self.limiter = Limiter()
        self._hasher = PasswordHasher()
        self._of_nobody = self._hasher.hash(secrets.token_urlsafe())
        # Each hash takes 64 MiB; many at once would be a way to bring the station down.
        self._hashing = threading.BoundedSemaphore(2)

    # Recognising

    def local(self) -> bool:
        """Whether whoever asks needs no sign-in, because there are no accounts and only this machine can ask."""
        if not self.open_without_accounts:
            return False
        with self.store.read() as session:
            return _count(session) == 0

    def who(self, token: str | None, cookie: str | None) -> Who:
        """Who makes a request that carries this bearer token or this cookie.

        Raises
        ------
        StationError
            sign_in_needed.
        """
        with self.store.read() as session:
            if token is not None:
                found = session.scalar(select(Token).where(Token.sha256 == _sha256(token)))
                if found is None:
                    raise StationError(
                        Code.SIGN_IN_NEEDED, "this token is not valid here", todo="Have an admin make a new one"
                    )
                return Who(f"token {found.name}", _role(found.role))
            if cookie is not None and cookie.startswith(TOKEN_PREFIX):
                display = self._of_display(session, cookie)
                if display is not None:
                    return Who(f"token {display.name}", "viewer")
            elif cookie is not None:
                account = session.scalar(
                    select(Account)
                    .join(SignIn, SignIn.account_id == Account.id)
                    .where(SignIn.sha256 == _sha256(cookie), SignIn.expires > now())
                )
                if account is not None:
                    return Who(account.name, _role(account.role))
            if self.open_without_accounts and _count(session) == 0:
                return LOCAL
        raise StationError(
            Code.SIGN_IN_NEEDED, "this needs a sign-in", todo="Sign in, or send a token as Authorization: Bearer TOKEN"
        )

    def sign_in(self, name: str, password: str, address: str) -> tuple[Who, str]:
        """Check a password; whose it is, and what the cookie has to hold.

        Parameters
        ----------
        address : from which it is tried; too many failures block it, and the name, for a minute.

        Raises
        ------
        StationError
            sign_in_failed, too_many_sign_ins.
        """
        keys = (f"name {name}", f"address {address}")
        self.limiter.check(*keys)
        with self.store.read() as session:
            account = session.scalar(select(Account).where(Account.name == name))
        # An unknown name takes as long as a wrong password, so that names cannot be found out.
        if not self._matches(self._of_nobody if account is None else account.password, password) or account is None:
            self.limiter.failed(*keys)
            with self.store.write() as session:
                entry = audit_entry(self.station, "nobody", "sign-in failed", f"account {name}", {"address": address})
                session.add(entry)
            raise StationError(Code.SIGN_IN_FAILED, "name or password is wrong")
        secret = secrets.token_urlsafe(32)
        with self.store.write() as session:
            session.execute(delete(SignIn).where(SignIn.expires <= now()))
            expires = now() + timedelta(hours=SIGN_IN_HOURS)
            session.add(SignIn(account_id=account.id, sha256=_sha256(secret), expires=expires))
            session.add(audit_entry(self.station, name, "sign-in", f"account {name}", {"address": address}))
        return Who(account.name, _role(account.role)), secret

    def sign_in_display(self, token: str, address: str) -> Who:
        """Whose a token is that a browser may keep as its cookie: one of a display on the wall, which only looks.

        Parameters
        ----------
        address : from which it is tried; too many failures block it for a minute.

        Raises
        ------
        StationError
            token_failed, too_many_sign_ins.
        """
        key = f"address {address}"
        self.limiter.check(key)
        with self.store.read() as session:
            found = self._of_display(session, token)
        if found is None:
            self.limiter.failed(key)
            with self.store.write() as session:
                session.add(audit_entry(self.station, "nobody", "sign-in failed", "a token", {"address": address}))
            raise StationError(
                Code.TOKEN_FAILED,
                "no display is signed in by this",
                todo="Use a token of the role viewer, as an admin makes it; those of machines and admins are not taken",
            )
        with self.store.write() as session:
            session.add(
                audit_entry(self.station, f"token {found.name}", "sign-in", f"token {found.name}", {"address": address})
            )
        return Who(f"token {found.name}", "viewer")

    def _of_display(self, session: Session, token: str) -> Token | None:
        return session.scalar(select(Token).where(Token.sha256 == _sha256(token), Token.role == "viewer"))

    def sign_out(self, cookie: str) -> None:
        """Make a cookie worthless."""
        with self.store.write() as session:
            session.execute(delete(SignIn).where(SignIn.sha256 == _sha256(cookie)))

    # Accounts

    def accounts(self) -> list[Account]:
        """All accounts, by name."""
        with self.store.read() as session:
            return list(session.scalars(select(Account).order_by(Account.name)))

    def has_admin(self) -> bool:
        """Whether someone could sign in and manage the station."""
        with self.store.read() as session:
            return _count(session, "admin") > 0

    def add_account(self, name: str, role: PersonRole, password: str, by: str) -> Account:
        """Let a person sign in.

        Raises
        ------
        UsageError
            A name or a password that cannot be one.
        StationError
            name_taken; last_admin if there would be accounts and no admin.
        """
        _check_name(name)
        hashed = self._hashed(password)
        with _unique(f"account {name}"), self.store.write() as session:
            if role != "admin" and _count(session, "admin") == 0:
                raise StationError(
                    Code.LAST_ADMIN, "the first account must be an admin's", todo="Add one with the role admin first"
                )
            account = Account(name=name, role=role, password=hashed, added=now())
            session.add(account)
            session.add(audit_entry(self.station, by, "add account", f"account {name}", {"role": role}))
            session.flush()
            return account

    def set_password(self, name: str, password: str, by: str) -> None:
        """Give an account another password, and end its sign-ins.

        Raises
        ------
        UsageError
            A password that cannot be one.
        StationError
            not_found.
        """
        hashed = self._hashed(password)
        with self.store.write() as session:
            account = _account(session, name)
            account.password = hashed
            session.execute(delete(SignIn).where(SignIn.account_id == account.id))
            session.add(audit_entry(self.station, by, "set password", f"account {name}", {}))

    def remove_account(self, name: str, by: str) -> None:
        """Take an account away, and end its sign-ins.

        Raises
        ------
        StationError
            not_found; last_admin if the others could not be managed any more, or nobody could at all.
        """
        with self.store.write() as session:
            account = _account(session, name)
            alone = self.open_without_accounts and _count(session) == 1
            if account.role == "admin" and _count(session, "admin") == 1 and not alone:
                raise StationError(
                    Code.LAST_ADMIN, "this is the only admin", todo="Make another account an admin's first"
                )
            session.execute(delete(SignIn).where(SignIn.account_id == account.id))
            session.delete(account)
            session.add(audit_entry(self.station, by, "remove account", f"account {name}", {"role": account.role}))

    # Tokens

    def tokens(self) -> list[Token]:
        """All tokens, by name; what they are is stored nowhere."""
        with self.store.read() as session:
            return list(session.scalars(select(Token).order_by(Token.name)))

    def add_token(self, name: str, role: Role, by: str) -> tuple[Token, str]:
        """Make a token for a machine; it is given here and never again.

        Raises
        ------
        UsageError
            A name that cannot be one.
        StationError
            name_taken.
        """
        _check_name(name)
        secret = TOKEN_PREFIX + secrets.token_urlsafe(32)
        with _unique(f"token {name}"), self.store.write() as session:
            token = Token(name=name, role=role, sha256=_sha256(secret), added=now(), by=by)
            session.add(token)
            session.add(audit_entry(self.station, by, "add token", f"token {name}", {"role": role}))
            session.flush()
            return token, secret

    def remove_token(self, name: str, by: str) -> None:
        """Make a token worthless.

        Raises
        ------
        StationError
            not_found.
        """
        with self.store.write() as session:
            token = session.scalar(select(Token).where(Token.name == name))
            if token is None:
                raise StationError(Code.NOT_FOUND, f"there is no token {name}")
            session.delete(token)
            session.add(audit_entry(self.station, by, "remove token", f"token {name}", {"role": token.role}))

    def audit(self, before: int | None, limit: int) -> list[AuditEntry]:
        """The newest lines of the audit log whose id is below `before`, newest first."""
        statement = select(AuditEntry).order_by(AuditEntry.id.desc()).limit(limit)
        if before is not None:
            statement = statement.where(AuditEntry.id < before)
        with self.store.read() as session:
            return list(session.scalars(statement))

    def _hashed(self, password: str) -> str:
        if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
            reach = {"least": str(SHORTEST_PASSWORD), "most": str(LONGEST_PASSWORD)}
            what = f"a password has {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters"
            raise FieldError(Complaint("password", "password_length", what, reach))
        with self._hashing:
            return self._hasher.hash(password)

    def _matches(self, hashed: str, password: str) -> bool:
        with self._hashing:
            try:
                return self._hasher.verify(hashed, password)
            except (VerificationError, InvalidHashError):
                return False


@contextmanager
def _unique(what: str) -> Iterator[None]:
    """Say name_taken where the database says that a name must be unique."""
    try:
        yield
    except IntegrityError as error:
        raise StationError(Code.NAME_TAKEN, f"there is a {what} already", todo="Choose another name") from error


def _account(session: Session, name: str) -> Account:
    account = session.scalar(select(Account).where(Account.name == name))
    if account is None:
        raise StationError(Code.NOT_FOUND, f"there is no account {name}")
    return account


def _count(session: Session, role: str | None = None) -> int:
    statement = select(func.count()).select_from(Account)
    return session.scalar(statement if role is None else statement.where(Account.role == role)) or 0


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise FieldError(
            Complaint("name", "name_signs", f"{name!r} cannot be a name"),
            todo="Use up to 100 letters and digits, and _ . @ - between them",
        )


def _role(stored: str) -> Role:
    for role in RIGHTS:
        if role == stored:
            return role
    raise ValueError(f"{stored} is no role")


def _sha256(secret: str) -> str:
    # Enough for what is random; passwords, which are not, go through argon2.
    return hashlib.sha256(secret.encode()).hexdigest()

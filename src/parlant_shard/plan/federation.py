"""Steps for foreign servers, user mappings and federated views."""

from __future__ import annotations

from collections.abc import Iterator

from psycopg.sql import SQL, Composable, Identifier

from parlant_shard import changes as c
from parlant_shard.ddl import fdw_options, render
from parlant_shard.diff import temporary
from parlant_shard.plan.draft import Builder, Draft, changed_options
from parlant_shard.plan.model import Hazard, Lock, Phase, secret_mark


class Federation(Builder):
    """Steps for foreign servers, user mappings and federated views."""

    def _federation(
        self,
        change: c.SetForeignServer
        | c.DropForeignServer
        | c.SetUserMapping
        | c.CreateView
        | c.DropView,
    ) -> Iterator[Draft]:
        match change:
            case c.SetForeignServer(foreign_server=server, live=live):
                name = Identifier(server.name)
                if live is None:
                    statement = SQL(
                        "CREATE SERVER {} FOREIGN DATA WRAPPER postgres_fdw OPTIONS ({})"
                    ).format(name, fdw_options(server.options))
                else:
                    statement = SQL("ALTER SERVER {} OPTIONS ({})").format(
                        name, changed_options(live.options, server.options)
                    )
                yield Draft(
                    phase=Phase.FOREIGN_SERVERS,
                    server=change.server,
                    title=f'{"create" if live is None else "alter"} foreign server "{server.name}"',
                    sql=(render(statement),),
                )
            case c.DropForeignServer(foreign_server=server):
                yield Draft(
                    phase=Phase.DROP_REST,
                    server=change.server,
                    title=f'drop foreign server "{server.name}" and its user mappings',
                    sql=(render(SQL("DROP SERVER {} CASCADE").format(Identifier(server.name))),),
                )
            case c.SetUserMapping():
                yield self._user_mapping(change)
            case c.CreateView():
                yield from self._create_view(change)
            case c.DropView(view=view, why=why):
                rebuilt = why is c.Why.REBUILT
                yield Draft(
                    phase=Phase.DROP_VIEWS if rebuilt else Phase.VIEWS,
                    server=change.server,
                    title=f'drop view "{view.name}"'
                    + (", which blocks a change below; it is created again" if rebuilt else ""),
                    sql=(
                        render(SQL("DROP VIEW {}").format(self.ddl.name(view.name))),
                        render(self._unregister("view", view.name)),
                    ),
                    lock=Lock.ACCESS_EXCLUSIVE,
                    hazards=(Hazard.VIEW_UNAVAILABLE,) if rebuilt else (Hazard.DROPS_OBJECT,),
                )

    def _user_mapping(self, change: c.SetUserMapping) -> Draft:
        mapping, live = change.mapping, change.live
        server = change.peer
        wanted = [("user", mapping.user)]
        if mapping.password is not None:
            wanted.append(("password", secret_mark(server)))
        where = SQL("{} SERVER {}").format(Identifier(mapping.role), Identifier(mapping.server))
        if live is None:
            statement = SQL("CREATE USER MAPPING FOR {} OPTIONS ({})").format(
                where, fdw_options(wanted)
            )
        else:
            had = [("user", live.user)] + ([("password", "")] if live.password is not None else [])
            statement = SQL("ALTER USER MAPPING FOR {} OPTIONS ({})").format(
                where, changed_options(had, wanted)
            )
        return Draft(
            phase=Phase.FOREIGN_SERVERS,
            server=change.server,
            title=f"{'create' if live is None else 'alter'} the user mapping of "
            f'"{mapping.role}" on "{mapping.server}"',
            sql=(render(statement),),
            secret=server if mapping.password is not None else None,
        )

    def _create_view(self, change: c.CreateView) -> Iterator[Draft]:
        view = change.view
        grants = [self.ddl.grant(view.name, g) for g in view.grants]
        if not change.swap:
            sql: list[Composable] = [self.ddl.create_view(view, replace=change.exists)]
            title = f'{"replace" if change.exists else "create"} federated view "{view.name}"'
        else:
            successor = temporary(view.name)
            sql = [
                SQL("DROP VIEW IF EXISTS {}").format(self.ddl.name(successor)),
                self.ddl.create_view(view, name=successor),
                SQL("DROP VIEW {}").format(self.ddl.name(view.name)),
                SQL("ALTER VIEW {} RENAME TO {}").format(
                    self.ddl.name(successor), Identifier(view.name)
                ),
            ]
            title = f'swap federated view "{view.name}": its columns changed'
        yield Draft(
            phase=Phase.VIEWS,
            server=change.server,
            title=title,
            sql=tuple(render(s) for s in (*sql, *grants, self._register(change.managed))),
            lock=Lock.ACCESS_EXCLUSIVE,
        )

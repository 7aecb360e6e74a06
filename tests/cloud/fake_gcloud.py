"""A `gcloud` for tests: it records its calls, and plays the life of queued resources from a script.

The command itself is a few lines of bash, which start in no time and ask a server in the process of
the tests. Its world is `lives`, the queued resources that will be granted one after the other, and
`current`, the one that exists. A life has `states` (each look takes one, the last one stays),
`node` (state of its node), `create_seconds`, `setups` (exit statuses), and `runs`: for each start
of a launcher the `statuses` of the workers, the `states` that follow, and how long it takes. With
`homes`, commands really run, one for each worker, with that folder as its home.
"""

import contextlib
import json
import socketserver
import subprocess
import threading
import traceback
from pathlib import Path

NOT_FOUND = 'ERROR: (gcloud.compute.tpus.queued-resources) NOT_FOUND: Resource was not found'

# Asks with its arguments, each ended by a NUL, and is answered in the same way.
COMMAND = r"""
exec 3<>/dev/tcp/127.0.0.1/{port}
printf '%s\0' "$#" "$@" >&3
IFS= read -r -d '' out <&3
IFS= read -r -d '' err <&3
IFS= read -r -d '' status <&3
printf %s "$out"
printf %s "$err" >&2
exit "$status"
"""

# The flags of the Google Cloud CLI's own command reference, as far as a script may need them.
EVERYWHERE = {'--zone', '--project', '--quiet', '--format'}
FLAGS = {
    'queued-resources create': EVERYWHERE
    | {'--node-id', '--accelerator-type', '--runtime-version', '--spot', '--reserved'}
    | {'--valid-until-duration', '--service-account'},
    'queued-resources describe': EVERYWHERE,
    'queued-resources delete': EVERYWHERE | {'--force', '--async'},
    'tpu-vm describe': EVERYWHERE,
    'tpu-vm ssh': EVERYWHERE | {'--worker', '--command'},
    'tpu-vm scp': EVERYWHERE | {'--worker', '--recurse'},
}


class Refused(Exception):
    """What gcloud says on stderr, and its exit status."""

    def __init__(self, message: str, status: int = 1):
        super().__init__(message)
        self.status = status


class FakeGcloud(socketserver.ThreadingTCPServer):
    """A server that answers the command.

    Args:
        folder: where copied files land, but for workers with homes.
        environment: of commands that really run.
    """

    daemon_threads = True

    def __init__(self, folder: Path, environment: dict[str, str]):
        super().__init__(('127.0.0.1', 0), _Call)
        self.folder, self.environment = folder, environment
        self.calls = []
        self.creating, self.running, self.over = (threading.Event() for _ in range(3))
        self.set(lives=[])

    @property
    def command(self) -> str:
        return COMMAND.format(port=self.server_address[1])

    def set(self, **world):
        """Says what there is."""
        self.world = json.loads(json.dumps(world))  # a copy, in which no two lives are one

    def answer(self, arguments: list[str]) -> tuple:
        """Returns what is printed, the exit status, and what is said on stderr, if anything.

        Raises:
            Refused: gcloud says so on stderr.
        """
        self.calls.append(arguments)
        assert arguments[:2] == ['compute', 'tpus'], arguments
        verb, rest = ' '.join(arguments[2:4]), arguments[4:]
        flags = dict((*part.split('=', 1), '')[:2] for part in rest if part.startswith('--'))
        names = [part for part in rest if not part.startswith('--')]
        if verb not in FLAGS or not flags.keys() <= FLAGS[verb]:
            raise Refused(f'ERROR: (gcloud) unrecognized arguments: {arguments}', 2)
        if not flags.get('--zone') or '--quiet' not in flags:
            raise Refused(f'a script must name the zone and must not be asked: {arguments}', 2)

        world = self.world
        life = world.get('current')
        if verb == 'queued-resources create':
            return self._create(life)
        if not life:
            raise Refused(NOT_FOUND)

        states = life['states']
        if verb == 'queued-resources describe':
            state = states.pop(0) if len(states) > 1 else states[0]
            if state == 'UNAVAILABLE':
                raise Refused('ERROR: UNAVAILABLE: The service is currently unavailable')
            return f'{state}\n', 0
        if verb == 'queued-resources delete':
            if states[0] == 'SUSPENDING':
                states.pop(0)
                raise Refused('ERROR: FAILED_PRECONDITION: it is being suspended')
            if '--force' not in flags:
                raise Refused('ERROR: FAILED_PRECONDITION: it has nodes')
            if world.get('undeletable'):
                raise Refused('ERROR: INTERNAL')
            world['current'] = None
            return '', 0
        if verb == 'tpu-vm describe':
            return f'{life.get("node", "READY")}\n', 0
        if states[0] != 'ACTIVE':
            raise Refused('ERROR: the TPU is in an unusable state')
        assert flags['--worker'] == 'all'
        if verb == 'tpu-vm scp':
            return self._copy(life, *names)
        if life.get('homes'):
            return self._run_on_workers(life['homes'], flags['--command'])
        if flags['--command'].startswith('bash worker.sh setup'):
            return '', life['setups'].pop(0) if life.get('setups') else 0
        return self._play(life)

    def _create(self, life):
        world = self.world
        if life:
            raise Refused('ERROR: ALREADY_EXISTS: Resource already exists')
        if not world['lives']:
            raise Refused('ERROR: RESOURCE_EXHAUSTED: Quota limit exceeded')
        life = world['lives'].pop(0)
        self.creating.set()
        self.over.wait(life.get('create_seconds', 0))
        world['current'] = life
        return '', 0

    def _copy(self, life, *names):
        *sources, target = names
        assert target.endswith(':'), names
        for source in map(Path, sources):
            for home in life.get('homes', [self.folder]):
                (Path(home) / source.name).write_bytes(source.read_bytes())
        return '', 0

    def _run_on_workers(self, homes, command):
        workers = [
            subprocess.Popen(
                ['bash', '-c', command],
                cwd=home,
                env=self.environment | {'HOME': home},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for home in homes
        ]
        out, err = map(''.join, zip(*(worker.communicate() for worker in workers), strict=True))
        return out, next((w.returncode for w in workers if w.returncode), 0), err

    def _play(self, life):
        run = life['runs'].pop(0)
        life['states'] = run.get('states', life['states'])
        self.running.set()
        self.over.wait(run.get('seconds', 0))
        statuses = run['statuses']
        lines = [f'cdjax: exit status {s} on worker-{i}\n' for i, s in enumerate(statuses)]
        return ''.join(lines), run.get('gcloud', next(filter(None, statuses), 0))


class _Call(socketserver.StreamRequestHandler):
    def handle(self):
        arguments = [self._read() for _ in range(int(self._read() or 0))]
        if not arguments:  # the command was killed
            return
        out = err = ''
        try:
            out, status, *more = self.server.answer(arguments)
            err = ''.join(more)
        except Refused as refused:
            err, status = f'{refused}\n', refused.status
        except Exception:
            err, status = traceback.format_exc(), 1
        with contextlib.suppress(OSError):  # the command was killed
            self.wfile.write(b''.join(f'{part}\0'.encode() for part in (out, err, status)))

    def _read(self) -> str:
        part = b''
        while byte := self.rfile.read(1).strip(b'\0'):
            part += byte
        return part.decode()

"""A bucket on this machine: an emulator for gcsfs (epath) and TensorStore (Orbax)."""

import contextlib
import os
import socket
from unittest import mock

from cdjax.run.lock import let_go

BUCKET = 'lab'


@contextlib.contextmanager
def fake_bucket():
    """Yields 'gs://lab', which this process and its children reach while the context lasts."""
    from gcp_storage_emulator.handlers import objects
    from gcp_storage_emulator.server import create_server

    plain = objects.download

    def download(request, response, storage, *args, **kwargs):
        """Says which generation of the object it sends, as TensorStore expects of the service."""
        plain(request, response, storage, *args, **kwargs)
        if response.status < 300:
            params = request.params
            facts = storage.get_file_obj(params['bucket_name'], params['object_id'])
            response['x-goog-generation'] = facts['generation']

    with socket.socket() as probe:
        probe.bind(('localhost', 0))
        port = probe.getsockname()[1]
    address = f'http://localhost:{port}'
    # Both clients then send no credentials.
    environment = {'STORAGE_EMULATOR_HOST': address, 'TENSORSTORE_GCS_HTTP_URL': address}
    server = create_server('localhost', port, in_memory=True, default_bucket=BUCKET)
    with mock.patch.object(objects, 'download', download), mock.patch.dict(os.environ, environment):
        server.start()
        try:
            yield f'gs://{BUCKET}'
        finally:
            let_go()  # a lease in a bucket that is gone would be asked for, for half a minute
            server.stop()

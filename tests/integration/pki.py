"""pki.py - certificate authorities and certificates for tests, made by openssl."""

import subprocess

KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


def openssl(*args):
    subprocess.run(["openssl", *args], check=True, capture_output=True)


class Pki:
    """A folder with NAME.crt and NAME.key of authorities and of what they have signed."""

    def __init__(self, folder):
        self.folder = folder

    def cert(self, name):
        return f"{self.folder}/{name}.crt"

    def key(self, name):
        return f"{self.folder}/{name}.key"

    def authority(self, name):
        openssl("req", "-x509", *KEY, "-keyout", self.key(name), "-out", self.cert(name),
                "-days", "2", "-subj", f"/CN=test {name}")

    def issue(self, name, ca="ca", days=2, names="IP:127.0.0.1,DNS:localhost"):
        """A certificate for `name`; with negative days one that has expired."""
        request, extensions = f"{self.folder}/{name}.csr", self.folder / f"{name}.ext"
        openssl("req", *KEY, "-keyout", self.key(name), "-out", request, "-subj", f"/CN={name}")
        extensions.write_text(f"subjectAltName={names}\n")
        openssl("x509", "-req", "-in", request, "-CA", self.cert(ca), "-CAkey", self.key(ca),
                "-CAcreateserial", "-days", str(days), "-extfile", str(extensions),
                "-out", self.cert(name))

    def server(self, name, ca=None):
        """A `tls` block of the configuration."""
        tls = {"cert": self.cert(name), "key": self.key(name)}
        return {**tls, "ca": self.cert(ca)} if ca else tls

# SPDX-License-Identifier: Apache-2.0
"""Certificates for the tests, made when they are needed with certtool: nothing of them is kept, so
nothing expires. Used by tests/boot/tls and tests/boot/migrate."""

import os
import subprocess


def certtool(*args):
    subprocess.run(["certtool", *args], check=True, capture_output=True)


def key(path):
    certtool("--generate-privkey", "--key-type=ecdsa", "--curve=secp256r1", "--outfile", path)
    os.chmod(path, 0o600)


class Ca:
    """An authority in a folder of its own, which signs certificates into other folders."""

    def __init__(self, folder, name="test CA", days=(-1, 30)):
        os.mkdir(folder)
        self.cert, self.key = f"{folder}/ca-cert.pem", f"{folder}/ca-key.pem"
        self.folder = folder
        key(self.key)
        self.write("ca", f'cn = "{name}"\nca\ncert_signing_key\ncrl_signing_key\n', days)
        certtool("--generate-self-signed", "--load-privkey", self.key, "--template",
                 f"{folder}/ca.tmpl", "--outfile", self.cert)

    def write(self, name, text, days):
        first, last = (f"{n} days" if n >= 0 else f"{-n} days ago" for n in days)
        with open(f"{self.folder}/{name}.tmpl", "w") as f:
            f.write(f'{text}activation_date = "{first}"\nexpiration_date = "{last}"\n')

    def sign(self, folder, role, names, purpose=None, days=(-1, 30), cn=None):
        """ROLE-cert.pem and ROLE-key.pem in the folder, for these host names and addresses."""
        os.makedirs(folder, exist_ok=True)
        text = f'cn = "{cn or (names or ["nobody"])[0]}"\nsigning_key\ntls_www_{purpose or role}\n'
        for n in names:
            text += f'{"ip_address" if n[0].isdigit() or ":" in n else "dns_name"} = "{n}"\n'
        self.write(role, text, days)
        key(f"{folder}/{role}-key.pem")
        certtool("--generate-certificate", "--load-privkey", f"{folder}/{role}-key.pem",
                 "--load-ca-certificate", self.cert, "--load-ca-privkey", self.key, "--template",
                 f"{self.folder}/{role}.tmpl", "--outfile", f"{folder}/{role}-cert.pem")
        if not os.path.exists(f"{folder}/ca-cert.pem"):
            os.symlink(self.cert, f"{folder}/ca-cert.pem")

    def revoke(self, folder, role):
        """A list that names this certificate, for peers to have beside the CA's."""
        self.write("crl", "crl_this_update_date = \"1 days ago\"\ncrl_next_update = 30\ncrl_number = 1\n",
                   (-1, 30))
        certtool("--generate-crl", "--load-ca-privkey", self.key, "--load-ca-certificate", self.cert,
                 "--load-certificate", f"{folder}/{role}-cert.pem", "--template",
                 f"{self.folder}/crl.tmpl", "--outfile", f"{self.folder}/ca-crl.pem")
        return f"{self.folder}/ca-crl.pem"

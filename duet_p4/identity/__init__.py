"""Who is who: certificates that name a node and its role, made, kept, read and renewed.

Every control channel is mutual TLS (1.3). A certificate's subject alternative names have the addresses its
owner answers at and, as a URI, its role and name: `duet://server/server1`. What a role may do is stated
where it is asked (`duet_p4.rest.access`).
"""

from duet_p4.identity.authority import Authority
from duet_p4.identity.credentials import Credentials, CredentialsError
from duet_p4.identity.role import Identity, Role

__all__ = ["Authority", "Credentials", "CredentialsError", "Identity", "Role"]

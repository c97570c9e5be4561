"""The metadata service: what cloudbase-init calls."""

import configparser
from typing import Any, Callable, Dict, List, Optional

from cloudbaseinit import exception
from cloudbaseinit.conf import CONF
from cloudbaseinit.metadata.services import base, nocloudservice
from cloudbaseinit.osutils import factory
from oslo_config import cfg
from oslo_log import log
from serial.tools.list_ports import comports

from vmw_cloudinit_metadata.guest.agent.failures import AgentError
from vmw_cloudinit_metadata.guest.agent.printing import printable
from vmw_cloudinit_metadata.guest.windows.comport import ListPorts, find_ports
from vmw_cloudinit_metadata.guest.windows.inquiry import Inquiry, load_mapping
from vmw_cloudinit_metadata.guest.windows.machine import manufacturer
from vmw_cloudinit_metadata.guest.windows.networkdetails import (
    Adapter,
    applicable,
    in_known_words,
    names_asked_for,
    network_of,
)
from vmw_cloudinit_metadata.guest.windows.publickeys import public_keys

LOG = log.getLogger(__name__)

SECTION = "vmwmetadata"
OPTIONS = [
    cfg.StrOpt("port", help="The serial port, such as COM1. Default: every port is asked."),
    cfg.FloatOpt("timeout", default=120, min=0, max=600, help="How many seconds to ask."),
    cfg.FloatOpt("retry", default=4, min=0.1, max=600, help="How many seconds between retries."),
]
CONF.register_opts(OPTIONS, group=SECTION)

MAX_NOTES = 100  # of a network-config, in the log

VMWARE = "VMware"
NOT_VMWARE = "this is no VMware machine (%s): to ask all the same, set port in [vmwmetadata]"


class VmwMetadataService(nocloudservice.NoCloudConfigDriveService):
    """NoCloud's documents, from a VMware virtual serial port instead of a disc."""

    def __init__(
        self,
        list_ports: ListPorts = comports,
        read_manufacturer: Callable[[], str] = manufacturer,
    ) -> None:
        super().__init__()
        self._list_ports = list_ports
        self._read_manufacturer = read_manufacturer
        self._documents: Dict[str, bytes] = {}

    def cleanup(self) -> None:
        """Forget the documents."""
        self._cache: Dict[Any, Any] = {}
        self._meta_data: Dict[Any, Any] = {}
        self._documents = {}

    def load(self) -> bool:
        """Ask for the data; return False, with the reason in the log, if there is none."""
        self.cleanup()
        try:
            return self._load()
        except AgentError as failure:
            LOG.error("no data over the serial port: %s", failure)
        except cfg.ConfigFileValueError as error:
            LOG.error("no data over the serial port: the configuration is invalid: %s", error)
        return False

    def _load(self) -> bool:
        for key in unknown_keys(CONF.config_file or []):
            LOG.warning("unknown key %s in [%s]: it has no effect", printable(key), SECTION)
        settings = CONF[SECTION]
        made_by = self._read_manufacturer()
        if not settings.port and VMWARE not in made_by:
            LOG.info(NOT_VMWARE, printable(made_by) or "manufacturer unknown")
            return False
        inquiry = Inquiry(self._find_ports, settings.timeout, settings.retry, LOG.warning)
        found = inquiry.run()
        self._meta_data, self._documents = found.metadata, found.documents
        port, instance_id = found.port, printable(self.get_instance_id())
        LOG.info("the data came over %s, instance-id %s", port, instance_id)
        if not settings.port:
            LOG.warning(
                "%s answered first and is trusted: set port=%s in [vmwmetadata]", port, port
            )
        return True

    def _find_ports(self) -> List[str]:
        log_settings = CONF.logging_serial_port_settings
        log_port = log_settings.split(",")[0] if log_settings else None
        return find_ports(self._list_ports, CONF[SECTION].port, log_port)

    def _get_data(self, path: str) -> bytes:
        names = {self._metadata_file: "METADATA", self._userdata_file: "USERDATA"}
        document = self._documents.get(names.get(path, ""))
        if document is None:
            raise base.NotExistingMetadataException(path)
        return document

    def get_instance_id(self) -> str:
        return str(self._meta_data["instance-id"])

    def get_host_name(self) -> Optional[str]:
        return self._text("local-hostname") or self._text("hostname")

    def get_public_keys(self) -> List[str]:
        return public_keys(self._meta_data.get("public-keys"))

    def get_admin_username(self) -> Optional[str]:
        return self._text("admin-username")

    def get_admin_password(self) -> Optional[str]:
        return self._text("admin-password")

    def _text(self, key: str) -> Optional[str]:
        value = self._meta_data.get(key)
        return None if value is None else str(value)

    def get_network_details_v2(self) -> Optional[Any]:
        """Return the network, or None without one; raise CloudbaseInitException."""
        text = self._documents.get("NETWORKDATA")
        if not text:
            LOG.info("the server has no network-config for this machine")
            return None
        found = factory.get_os_utils().get_network_adapters()  # some have no name in Windows
        return network_details(text, [Adapter(name, mac) for name, mac in found if name and mac])


def network_details(text: bytes, adapters: List[Adapter]) -> Optional[Any]:
    """Return a network-config as cloudbase-init's NetworkDetailsV2, or None if it is disabled.

    Raise CloudbaseInitException. What cannot be applied is in the log.
    """
    try:
        document = load_mapping("network-config", text)
        network = network_of(document)
        if network.get("config") == "disabled":
            LOG.info("network-config is disabled: the network stays as it is")
            return None
        parsed = nocloudservice.NoCloudNetworkConfigParser.parse(in_known_words(document))
        if parsed is None:
            return None
        details, notes = applicable(parsed, adapters, names_asked_for(network))
    except Exception as error:  # of a document that can be anything, and of its parser
        reason = f"network-config cannot be applied: {printable(error)}"
        raise exception.CloudbaseInitException(reason) from None
    for note in notes[:MAX_NOTES]:
        LOG.warning("network-config: %s", note)
    if len(notes) > MAX_NOTES:
        LOG.warning("network-config: %d more warnings", len(notes) - MAX_NOTES)
    return details


def unknown_keys(files: List[str]) -> List[str]:
    """Return the keys of our section that are no settings: oslo.config ignores them."""
    parser = configparser.ConfigParser(interpolation=None, strict=False, allow_no_value=True)
    try:
        parser.read(files, encoding="utf-8-sig")
        keys = list(parser[SECTION]) if SECTION in parser else []
    except (configparser.Error, UnicodeDecodeError):
        return []  # oslo.config has read them: it takes more than this parser
    known = {option.name for option in OPTIONS} | set(parser.defaults())
    return [key for key in keys if key not in known]

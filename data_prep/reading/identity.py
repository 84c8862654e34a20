"""What in a DICOM header identifies a person: found and listed by name, never copied.

The list is that of the Basic Application Level Confidentiality Profile (DICOM PS3.15, annex E), as far as it concerns
fields of image files, plus every name of a person, every unique identifier and every private field.
"""

from functools import lru_cache
from typing import Any

from data_prep.reading.scan import Person

FIELDS = """
    AccessionNumber AcquisitionDate AcquisitionDateTime AcquisitionTime AdditionalPatientHistory AdmissionID
    AdmittingDate AdmittingDiagnosesDescription Allergies ContentDate ContentTime CountryOfResidence
    CurrentPatientLocation DerivationDescription DetectorID DeviceSerialNumber EthnicGroup FrameComments
    GantryID ImageComments InstanceCreationDate InstanceCreationTime InstitutionAddress InstitutionCodeSequence
    InstitutionName InstitutionalDepartmentName InsurancePlanIdentification IssuerOfPatientID MedicalAlerts
    MedicalRecordLocator MilitaryRank Occupation OperatorIdentificationSequence OtherPatientIDs
    OtherPatientIDsSequence PatientAddress PatientAge PatientBirthDate PatientBirthTime PatientComments PatientID
    PatientInsurancePlanCodeSequence PatientMotherBirthName PatientReligiousPreference PatientSex PatientSize
    PatientState PatientTelephoneNumbers PatientTransportArrangements PatientWeight PerformedProcedureStepDescription
    PerformedProcedureStepID PerformedProcedureStepStartDate PerformedProcedureStepStartTime PerformedStationAETitle
    PerformedStationName PlateID PregnancyStatus ProtocolName ReasonForStudy RegionOfResidence
    RequestAttributesSequence RequestedProcedureDescription RequestedProcedureID ScheduledProcedureStepDescription
    ScheduledProcedureStepID SeriesDate SeriesDescription SeriesTime SmokingStatus StationName StudyComments StudyDate
    StudyDescription StudyID StudyIDIssuer StudyTime TimezoneOffsetFromUTC VisitComments
"""
IDENTIFYING = frozenset(FIELDS.split())
CLASSES = ("SOPClassUID", "TransferSyntaxUID", "MediaStorageSOPClassUID", "ImplementationClassUID")  # of the format
NAMES = (  # fields of which a column of a table may hold the text
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "AccessionNumber",
    "OtherPatientIDs",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SOPInstanceUID",
)
FACTS = {  # column -> field of the header that describes the scanner and not the person
    "modality": "Modality",
    "manufacturer": "Manufacturer",
    "model": "ManufacturerModelName",
    "field_strength": "MagneticFieldStrength",
    "body_part": "BodyPartExamined",
}
SCREENS = {"US": "ultrasound", "SC": "secondary capture", "ES": "endoscopy", "XC": "photograph", "OT": "other"}
SECONDARY = "1.2.840.10008.5.1.4.1.1.7"  # class of secondary captures, and how those of its kinds begin


def person(header: Any) -> Person:
    """The patient and the institution of a header, and the names of the fields that identify."""
    who = [_text(header, "PatientID")] if _text(header, "PatientID") else []
    who = who or [text for text in (_text(header, "PatientName"), _text(header, "PatientBirthDate")) if text]
    words = {keyword: text for keyword in NAMES if (text := _text(header, keyword))}
    tags = tuple(sorted(_tags(header)))
    return Person("|".join(who), _text(header, "InstitutionName"), words, tags, _burned(header))


def facts(header: Any) -> dict[str, Any]:
    """Facts about the scanner; a number where the field holds one."""
    found: dict[str, Any] = {}
    for column, keyword in FACTS.items():
        text = _text(header, keyword)
        if text and column == "field_strength":
            try:
                found[column] = float(text)
            except ValueError:
                continue
        elif text:
            found[column] = text
    return found


def _text(header: Any, keyword: str) -> str:
    """The text of a field without blanks around it; empty if there is none."""
    try:
        value = header.get(keyword)
        return "" if value is None else " ".join(str(value).split())
    except Exception:  # a field that cannot be decoded says nothing
        return ""


def _tags(header: Any) -> set[str]:
    """Names of the fields that identify and are not empty, also within sequences."""
    found: set[str] = set()
    for tag in header.keys():  # noqa: SIM118
        name, nested = _meaning(tag)
        if not (name or nested) or name in found:
            continue
        try:
            if not _is_filled(header.get_item(tag)):
                continue
            found |= {name} - {""}
            for item in header[tag].value if nested else ():
                found |= _tags(item)
        except Exception:  # a damaged field is nothing that could be named
            continue
    return found


@lru_cache(maxsize=4096)
def _meaning(tag: Any) -> tuple[str, bool]:
    """The name of a field that identifies, empty for others, and whether it holds fields of its own."""
    from pydicom.datadict import dictionary_has_tag, dictionary_keyword, dictionary_VR

    if tag.is_private:
        return "private fields", False
    if not dictionary_has_tag(tag):
        return "", False
    keyword, kind = dictionary_keyword(tag), dictionary_VR(tag)
    unique = kind == "UI" and keyword not in CLASSES
    return keyword if keyword in IDENTIFYING or kind == "PN" or unique else "", kind == "SQ"


def _is_filled(field: Any) -> bool:
    """Whether a field, decoded or as it is in the file, holds anything; asking the latter decodes nothing."""
    if isinstance(field.value, bytes):
        return bool(field.value.strip(b" \0"))
    return not getattr(field, "is_empty", field.value is None)


def _burned(header: Any) -> str:
    """Why text may be burned into the pixels; empty if nothing says so."""
    if _text(header, "BurnedInAnnotation").upper() == "YES":
        return "BurnedInAnnotation is YES"
    if _text(header, "SOPClassUID").startswith(SECONDARY):
        return "a secondary capture"
    modality = _text(header, "Modality")
    if modality in SCREENS and _text(header, "BurnedInAnnotation").upper() != "NO":
        return f"modality {modality} ({SCREENS[modality]})"
    return ""

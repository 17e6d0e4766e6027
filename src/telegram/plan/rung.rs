//! On which rung of the ladder a file stands, and where it enters it.

use super::kind::{SendKind, is_http, kind, misshapen, taken_by_url};
use super::progress::{Progress, Way};
use super::{DeliveryMode, FORM_BYTES, Parcel};
use crate::job::answer::{File, is_data};

/// The rung of the item under way. The one on record may be of a file that nobody may fetch any more.
pub(super) fn way(parcel: &Parcel<'_>, p: &Progress, file: &File) -> Way {
    match p.way {
        Way::Url | Way::Upload | Way::Document if !may_be_fetched(parcel, file) => {
            return Way::Link;
        }
        Way::Undecided => {}
        known => return known,
    }
    if file.held.is_some() {
        return Way::Held;
    }
    first_way(parcel, p.item < p.no_url, file)
}

/// The rung where a file that Telegram does not have enters the ladder. `no_url`: its URL was refused already.
pub(super) fn first_way(parcel: &Parcel<'_>, no_url: bool, file: &File) -> Way {
    let kind = kind(parcel.target.send_as, file);
    if is_data(&file.url) {
        return upload_rung(parcel, file, kind);
    }
    if !may_be_fetched(parcel, file) {
        return Way::Link;
    }
    let limits = &parcel.limits;
    let by_url_limit = if kind == SendKind::Photo {
        limits.photo_by_url
    } else {
        limits.file_by_url
    };
    let by_url = parcel.delivery != DeliveryMode::Upload
        && !no_url
        && taken_by_url(kind, file)
        && file.size.is_none_or(|size| size <= by_url_limit)
        && !(kind == SendKind::Photo && misshapen(file));
    if by_url {
        Way::Url
    } else if parcel.delivery == DeliveryMode::Url
        || file
            .size
            .is_some_and(|size| size.saturating_add(FORM_BYTES) > limits.upload_body)
    {
        Way::Link
    } else {
        upload_rung(parcel, file, kind)
    }
}

fn may_be_fetched(parcel: &Parcel<'_>, file: &File) -> bool {
    is_data(&file.url) || (is_http(&file.url) && (parcel.may_fetch)(&file.url))
}

/// Where a file that is uploaded enters the ladder: no photo that cannot be one.
pub(super) fn upload_rung(parcel: &Parcel<'_>, file: &File, kind: SendKind) -> Way {
    let too_big = file
        .size
        .is_some_and(|size| size > parcel.limits.photo_upload);
    if kind == SendKind::Photo && (too_big || misshapen(file)) {
        Way::Document
    } else {
        Way::Upload
    }
}

/**
 * What a handler returns besides the number of bytes that it put behind the header in the out buffer, and -errno: the request
 * ends with a completion on the ring, or it has no reply, or its data is in place.
 */
export const LATER = -5000;
export const NO_REPLY = -5001;
/** The request is to be served by a helper: what is asked for would wait. Nothing was done yet. */
export const ELSEWHERE = -5003;
/** The reply is a header and `FsService.dataBytes` that the kernel has put into guest memory already. */
export const DATA = -5002;

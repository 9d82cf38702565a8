/**
 * What a handler returns besides the number of bytes that it put behind the header in the out buffer, and -errno: the request
 * ends with a completion on the ring, or it has no reply.
 */
export const LATER = -5000;
export const NO_REPLY = -5001;

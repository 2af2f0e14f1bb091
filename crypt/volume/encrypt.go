// SPDX-License-Identifier: Apache-2.0

package volume

// Encrypt turns plaintext in place into what WriteAt would write at that offset, and writes nothing. Both the length and
// the offset are multiples of the sector size.
func (v *Volume) Encrypt(p []byte, offsetBytes int64) {
	if s := int64(v.opts.Geometry.SectorBytes); int64(len(p))%s != 0 || offsetBytes%s != 0 {
		panic("BUG: encrypting a part of a sector")
	}
	r := v.reqs.Get().(*request)
	r.crypt(p, offsetBytes, true)
	r.job = cryptJob{}
	v.reqs.Put(r)
}

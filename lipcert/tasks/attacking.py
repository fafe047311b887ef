class CertificateBroken(RuntimeError): pass
